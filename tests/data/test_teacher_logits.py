import json
from dataclasses import replace

import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.parquet import read_table
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits, write_teacher_logits

LOGITS = TeacherLogits(
    filenames=("a.wav", "b.wav", "c.wav"),
    classes=("bus", "park"),
    logits=np.float32([[0.1, -1e-7], [3.3, 2.0], [1 / 3, 1e9]]),
    teacher_run="17",
    data_digest="d1",
)
HERE = {"classes": ["bus", "park"], "data_digest": "d1"}


def test_logits_are_written_and_read_exactly(tmp_path):
    write_teacher_logits(tmp_path / "logits", LOGITS)
    read = read_teacher_logits(tmp_path / "logits")
    assert np.array_equal(read.logits, LOGITS.logits)
    assert replace(read, logits=LOGITS.logits) == LOGITS


def test_logits_come_in_the_order_of_the_clips_asked_for():
    assert np.array_equal(LOGITS.of(["c.wav", "a.wav"], **HERE), LOGITS.logits[[2, 0]])


def test_a_clip_without_logits_is_named():
    with pytest.raises(DataError, match=r"(?s)teacher run 17.*z\.wav: no logits"):
        LOGITS.of(["a.wav", "z.wav"], **HERE)


def test_another_order_of_classes_is_refused():
    with pytest.raises(DataError, match="hold the classes bus, park, expected park, bus, in this order"):
        LOGITS.of(["a.wav"], classes=["park", "bus"], data_digest="d1")


def test_logits_of_other_data_are_refused_even_where_the_file_names_are_the_same():
    with pytest.raises(DataError, match=r"teacher run 17 belong to other data \(digest d1\).*\(digest d2\)"):
        LOGITS.of(["a.wav"], classes=["bus", "park"], data_digest="d2")


def test_logits_that_a_former_version_left_as_csv_are_read_exactly(tmp_path):
    write_teacher_logits(tmp_path, LOGITS)
    frame = read_table(tmp_path / "logits.parquet")
    (tmp_path / "logits.parquet").unlink()
    frame.to_csv(tmp_path / "logits.csv", index=False, float_format="%.9g")
    assert np.array_equal(read_teacher_logits(tmp_path).logits, LOGITS.logits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,bus\na.wav,1\na.wav,2\n", "a.wav stands there twice"),
        ("filename,bus\na.wav,1\nb.wav,loud\n", "holds logits that are no numbers"),
        ("filename,bus\na.wav,1\nb.wav,nan\n", "(not finite|no numbers)"),
        ("filename,bus\na.wav,1\n", "holds 1 clips; logits.json there says 2: it is not whole"),
        (
            "filename,tram\na.wav,1\nb.wav,1\n",
            "has the columns filename, tram, by logits.json they are filename, bus",
        ),
        ("name,bus\na.wav,1\nb.wav,1\n", "has the columns name, bus, by logits.json they are filename, bus"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    about = {"teacher_run": "17", "data_digest": "d1", "classes": ["bus"], "clips": 2}
    (tmp_path / "logits.json").write_text(json.dumps(about))
    (tmp_path / "logits.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_teacher_logits(tmp_path)


@pytest.mark.parametrize(
    ("about", "message"), [("{}", "'clips' is missing"), ("[", "can't be read"), (None, "can't be read")]
)
def test_a_table_of_which_nothing_says_whose_it_is_is_refused(tmp_path, about, message):
    (tmp_path / "logits.csv").write_text("filename,bus\na.wav,1\n")
    if about is not None:
        (tmp_path / "logits.json").write_text(about)
    with pytest.raises(DataError, match=message):
        read_teacher_logits(tmp_path)
