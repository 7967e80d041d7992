from functools import partial

import numpy as np
import pandas as pd
import pytest
import soundfile

from adaptf.data import decode
from adaptf.data.cuts import unfit
from adaptf.data.errors import DataError
from adaptf.data.sets.files_to_predict import check_each_file, read_files_to_predict


@pytest.mark.parametrize("name", ["test.csv", "fold1_test.csv"])
def test_an_evaluation_set_gives_files_and_devices(tmp_path, name):
    (tmp_path / "evaluation_setup").mkdir()
    (tmp_path / "evaluation_setup" / name).write_text(
        "filename\tdevice_id\naudio/0.wav\tunknown\naudio/1.wav\ta\n"
    )
    table, root = read_files_to_predict(tmp_path)
    assert root == tmp_path
    assert table.to_numpy().tolist() == [["audio/0.wav", "unknown"], ["audio/1.wav", "a"]]


def test_a_folder_without_a_list_or_with_two_unlike_ones_is_refused(tmp_path):
    (tmp_path / "evaluation_setup").mkdir()
    with pytest.raises(
        DataError, match=r"evaluation_setup/test\.csv or evaluation_setup/fold1_test\.csv; .* has neither"
    ):
        read_files_to_predict(tmp_path)
    for name in ("test.csv", "fold1_test.csv"):
        (tmp_path / "evaluation_setup" / name).write_text("filename\nx.wav\n")
    assert list(read_files_to_predict(tmp_path)[0]["filename"]) == ["x.wav"]
    (tmp_path / "evaluation_setup/test.csv").write_text("filename\ny.wav\n")
    with pytest.raises(DataError, match="has both, which differ: leave one of them"):
        read_files_to_predict(tmp_path)


def test_files_are_found_by_names_that_look_the_same(tmp_path):
    soundfile.write(tmp_path / "Gera\u0308t 1.wav", np.zeros(44100), 44100)
    (tmp_path / "files.csv").write_text(
        "filename;device\n\n.\\Ger\u00e4t\u00a01.wav; a \nabsent.wav;a\n", encoding="utf-8-sig"
    )
    table, root = read_files_to_predict(tmp_path / "files.csv")
    assert table.to_numpy().tolist() == [["Ger\u00e4t 1.wav", "a"], ["absent.wav", "a"]]
    with pytest.raises(DataError, match=r"1 problem in my files:\s+row 3, absent\.wav"):
        check_each_file(
            table, root, problem_of=lambda path: "" if path.is_file() else "gone", source="my files"
        )


def test_a_csv_without_devices_asks_for_none(tmp_path):
    (tmp_path / "files.csv").write_text("filename\nx.wav\n")
    table, _ = read_files_to_predict(tmp_path / "files.csv")
    assert table["device"].tolist() == [""]


BAD_FILES = {
    "absent.wav": "the file is missing",
    "broken.wav": "not readable as audio (",
    "empty.wav": "not readable as audio (",
    "without samples.wav": "the audio has no samples",
    "text.wav": "not readable as audio (",
    "folder.wav": "it is a folder, not a file",
    "cut off.flac": "not readable as audio (",
    "too short.wav": "1 samples at 96000 Hz are less than one at 32000 Hz",
    "loud.wav": "it has samples up to 9, full scale is 1",
    "no numbers.wav": "the audio holds values that are not numbers",
}


def test_all_files_that_cannot_be_answered_are_named_with_their_rows_before_anything_is_predicted(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(44100), 44100)
    for name, content in {
        "broken.wav": b"RIFF",
        "empty.wav": b"",
        "text.wav": b"this is text\n" * 50,
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "without samples.wav", np.zeros(0), 32000)
    soundfile.write(tmp_path / "cut off.flac", np.random.default_rng(0).uniform(-1, 1, 44100), 44100)
    (tmp_path / "cut off.flac").write_bytes((tmp_path / "cut off.flac").read_bytes()[:40000])
    soundfile.write(tmp_path / "too short.wav", np.zeros(1), 96000)
    soundfile.write(tmp_path / "loud.wav", np.full(32000, 9.0), 32000, subtype="FLOAT")
    soundfile.write(tmp_path / "no numbers.wav", np.full(32000, np.nan), 32000, subtype="FLOAT")
    table = pd.DataFrame({"filename": ["good.wav", *BAD_FILES], "device": "a"})
    with pytest.raises(DataError, match=f"{len(BAD_FILES)} problems in my files") as error:
        check_each_file(
            table, tmp_path, problem_of=partial(unfit, sample_rate=32000, max_peak=8.0), source="my files"
        )
    for row, (name, said) in enumerate(BAD_FILES.items(), 3):
        assert f"row {row}, {name}: {said}" in str(error.value)


def test_plain_integers_are_not_decoded_to_be_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        decode, "read_mono", lambda *_, **__: pytest.fail("decoded a file whose header can be believed")
    )
    for format in ("WAV", "RF64", "W64", "AIFF"):
        soundfile.write(tmp_path / "x", np.zeros(44100), 44100, format=format, subtype="PCM_24")
        assert unfit(tmp_path / "x", sample_rate=32000, max_peak=8.0) == ""


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "files.csv").write_text("filename,device\n")
    with pytest.raises(DataError, match=r"files\.csv names no files"):
        read_files_to_predict(tmp_path / "files.csv")


def test_a_path_to_nothing_says_what_is_wanted(tmp_path):
    with pytest.raises(
        DataError, match="does not exist: give a CSV file with the columns filename and device"
    ):
        read_files_to_predict(tmp_path / "nothing")
