import numpy as np
import pytest
import soundfile

from adaptf.data.errors import DataError
from adaptf.data.files_to_predict import check_files, read_files_to_predict


@pytest.mark.parametrize("name", ["test.csv", "fold1_test.csv"])
def test_an_evaluation_set_gives_files_and_devices(tmp_path, name):
    (tmp_path / "evaluation_setup").mkdir()
    (tmp_path / "evaluation_setup" / name).write_text("filename\tdevice_id\naudio/0.wav\tunknown\naudio/1.wav\ta\n")
    table, root = read_files_to_predict(tmp_path)
    assert root == tmp_path
    assert table.to_numpy().tolist() == [["audio/0.wav", "unknown"], ["audio/1.wav", "a"]]


def test_a_folder_without_a_list_or_with_two_unlike_ones_is_refused(tmp_path):
    (tmp_path / "evaluation_setup").mkdir()
    with pytest.raises(DataError, match=r"evaluation_setup/test\.csv or evaluation_setup/fold1_test\.csv; .* has neither"):
        read_files_to_predict(tmp_path)
    for name in ("test.csv", "fold1_test.csv"):
        (tmp_path / "evaluation_setup" / name).write_text("filename\nx.wav\n")
    assert list(read_files_to_predict(tmp_path)[0]["filename"]) == ["x.wav"]
    (tmp_path / "evaluation_setup/test.csv").write_text("filename\ny.wav\n")
    with pytest.raises(DataError, match="has both, which differ: leave one of them"):
        read_files_to_predict(tmp_path)


def test_files_are_found_by_names_that_look_the_same(tmp_path):
    soundfile.write(tmp_path / "Gera\u0308t 1.wav", np.zeros(44100), 44100)
    (tmp_path / "files.csv").write_text("filename;device\n\n.\\Ger\u00e4t\u00a01.wav; a \nabsent.wav;a\n", encoding="utf-8-sig")
    table, root = read_files_to_predict(tmp_path / "files.csv")
    assert table.to_numpy().tolist() == [["Ger\u00e4t 1.wav", "a"], ["absent.wav", "a"]]
    with pytest.raises(DataError, match=r"1 problem in my files:\s+row 3, absent\.wav"):
        check_files(table, root, source="my files")


def test_a_csv_without_devices_asks_for_none(tmp_path):
    (tmp_path / "files.csv").write_text("filename\nx.wav\n")
    table, _ = read_files_to_predict(tmp_path / "files.csv")
    assert table["device"].tolist() == [""]


def test_missing_and_unreadable_files_are_named_before_anything_is_predicted(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(44100), 44100)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "files.csv").write_text("filename,device\ngood.wav,a\nabsent.wav,a\nbroken.wav,b\n")
    table, root = read_files_to_predict(tmp_path / "files.csv")
    with pytest.raises(DataError, match="2 problems in my files") as error:
        check_files(table, root, source="my files")
    assert "row 3, absent.wav: the file is missing" in str(error.value)
    assert "row 4, broken.wav: not readable as audio (" in str(error.value)


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "files.csv").write_text("filename,device\n")
    with pytest.raises(DataError, match=r"files\.csv names no files"):
        read_files_to_predict(tmp_path / "files.csv")


def test_a_path_to_nothing_says_what_is_wanted(tmp_path):
    with pytest.raises(DataError, match="does not exist: give a CSV file with the columns filename and device"):
        read_files_to_predict(tmp_path / "nothing")
