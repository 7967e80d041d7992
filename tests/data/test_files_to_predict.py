import pytest

from adaptf.data.errors import DataError
from adaptf.data.files_to_predict import read_files_to_predict


def test_an_evaluation_set_gives_files_and_devices(tmp_path):
    (tmp_path / "evaluation_setup").mkdir()
    (tmp_path / "evaluation_setup/test.csv").write_text("filename\tdevice_id\naudio/0.wav\tunknown\naudio/1.wav\ta\n")
    (tmp_path / "audio").mkdir()
    for name in ("0.wav", "1.wav"):
        (tmp_path / "audio" / name).write_bytes(b"")
    table, root = read_files_to_predict(tmp_path)
    assert root == tmp_path
    assert table.to_numpy().tolist() == [["audio/0.wav", "unknown"], ["audio/1.wav", "a"]]


def test_a_csv_without_devices_asks_for_none(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"")
    (tmp_path / "files.csv").write_text("filename\nx.wav\n")
    table, _ = read_files_to_predict(tmp_path / "files.csv")
    assert table["device"].tolist() == [""]


def test_missing_files_are_named_before_anything_is_predicted(tmp_path):
    (tmp_path / "files.csv").write_text("filename,device\nx.wav,a\n")
    with pytest.raises(DataError, match=r"row 2, x\.wav: the file is missing"):
        read_files_to_predict(tmp_path / "files.csv")


def test_a_path_to_nothing_says_what_is_wanted(tmp_path):
    with pytest.raises(DataError, match="does not exist: give a CSV file with the columns filename and device"):
        read_files_to_predict(tmp_path / "nothing")
