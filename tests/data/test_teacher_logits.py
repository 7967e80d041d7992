import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits, write_teacher_logits

LOGITS = TeacherLogits(("a.wav", "b.wav", "c.wav"), ("bus", "park"), np.float32([[0.1, -1e-7], [3.3, 2.0], [1 / 3, 1e9]]))


def test_logits_are_written_and_read_exactly(tmp_path):
    write_teacher_logits(tmp_path / "logits.csv", LOGITS)
    read = read_teacher_logits(tmp_path / "logits.csv")
    assert read.filenames == LOGITS.filenames
    assert read.classes == LOGITS.classes
    assert np.array_equal(read.logits, LOGITS.logits)


def test_logits_come_in_the_order_of_the_clips_asked_for():
    wanted = LOGITS.of(["c.wav", "a.wav"], ["bus", "park"], source="x")
    assert np.array_equal(wanted, LOGITS.logits[[2, 0]])


def test_a_clip_without_logits_is_named():
    with pytest.raises(DataError, match=r"(?s)teacher run 17.*z\.wav: no logits"):
        LOGITS.of(["a.wav", "z.wav"], ["bus", "park"], source="teacher run 17")


def test_another_order_of_classes_is_refused():
    with pytest.raises(DataError, match="holds the classes bus, park, expected park, bus, in this order"):
        LOGITS.of(["a.wav"], ["park", "bus"], source="teacher run 17")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,bus\na.wav,1\na.wav,2\n", "a.wav stands there twice"),
        ("filename,bus\na.wav,loud\n", "holds logits that are no numbers"),
        ("filename,bus\na.wav,nan\n", "(not finite|no numbers)"),
        ("name,bus\na.wav,1\n", "lacks the column filename"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    (tmp_path / "logits.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_teacher_logits(tmp_path / "logits.csv")
