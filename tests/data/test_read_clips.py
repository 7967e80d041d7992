import pandas as pd
import pytest

from adaptf.data.clips import TAU_SCENES
from adaptf.data.errors import DataError
from adaptf.data.read_clips import read_clips


def read(root, **changes):
    settings = {"scenes": TAU_SCENES, "validation_share": 0.3, "test_share": 0.2, "seed": 0} | changes
    return read_clips(root, **settings)


def edit(path, change, separator="\t"):
    table = pd.read_csv(path, sep=separator, dtype=str)
    change(table).to_csv(path, sep=separator, index=False)


def test_tau_folder_gives_scene_device_location_and_split(tau):
    table = read(tau)
    assert list(table.columns) == ["filename", "scene", "device", "location", "split"]
    assert len(table) == 36
    assert table["split"].value_counts()["test"] == 12
    assert set(table["device"]) == {"a", "b", "c"}


def test_no_location_is_on_two_sides(tau):
    for seed in range(20):
        sides = read(tau, seed=seed).groupby("location")["split"].nunique()
        assert (sides == 1).all()


def test_each_scene_has_training_and_validation_clips(tau):
    counts = read(tau).groupby(["scene", "split"]).size()
    for scene in ("airport", "bus"):
        assert counts[scene, "train"] == 9
        assert counts[scene, "validation"] == 3


def test_validation_is_cut_from_training_clips_only(tau):
    before = set(read(tau, validation_share=0.0).query("split == 'test'")["filename"])
    after = set(read(tau, validation_share=0.5).query("split == 'test'")["filename"])
    assert before == after


def test_a_scene_with_one_location_keeps_it_for_training(tau):
    edit(tau / "meta.csv", lambda table: table.assign(identifier=table["scene_label"]))
    assert "validation" not in set(read(tau)["split"])


def test_unknown_city_and_device_are_data(tau):
    edit(tau / "meta.csv", lambda table: table.assign(source_label=table["source_label"].replace("b", "my phone")))
    assert "my phone" in set(read(tau)["device"])


def test_unknown_scene_is_an_error_that_names_the_row(tau):
    edit(tau / "meta.csv", lambda table: table.assign(scene_label=table["scene_label"].replace("bus", "buss")))
    with pytest.raises(DataError, match=r"row 20, audio/bus-paris-0-0-0-a\.wav: unknown scene 'buss', expected one of airport"):
        read(tau)


def test_a_device_that_no_registered_model_can_be_named_after_is_an_error(tau):
    edit(tau / "meta.csv", lambda table: table.assign(source_label=table["source_label"].replace("b", "mic/1")))
    with pytest.raises(DataError, match="device 'mic/1' holds '/' or ':'"):
        read(tau)


def test_two_rows_for_one_file_are_an_error_that_names_both(tau):
    edit(tau / "meta.csv", lambda table: pd.concat([table, table.iloc[[3]]]))
    with pytest.raises(DataError, match=r"row 38, .*named by row 5 too"):
        read(tau)


def test_a_file_in_training_and_test_list_is_an_error(tau):
    test = pd.read_csv(tau / "evaluation_setup/fold1_evaluate.csv", sep="\t")
    edit(tau / "evaluation_setup/fold1_train.csv", lambda table: pd.concat([table, test.iloc[[0]]]))
    with pytest.raises(DataError, match=r"airport-paris-4-4-0-a\.wav is in evaluation_setup/fold1_train\.csv and in"):
        read(tau)


def test_a_listed_file_without_meta_is_an_error(tau):
    edit(tau / "meta.csv", lambda table: table.iloc[1:])
    with pytest.raises(DataError, match=r"airport-paris-0-0-0-a\.wav is in a split list but not in meta\.csv"):
        read(tau)


def test_a_missing_column_is_named_with_those_that_are_there(tau):
    edit(tau / "meta.csv", lambda table: table.rename(columns={"identifier": "place"}))
    with pytest.raises(DataError, match="lacks the column identifier; it has filename, scene_label, place, source_label"):
        read(tau)


def test_a_folder_of_something_else_is_an_error(tmp_path):
    with pytest.raises(DataError, match="neither a TAU 2022 folder"):
        read(tmp_path)


def test_ten_problems_are_listed_and_the_others_counted(tau):
    edit(tau / "meta.csv", lambda table: table.assign(scene_label="moon"))
    with pytest.raises(DataError, match=r"(?s)36 problems in .*and 26 more"):
        read(tau)


def test_own_csv_without_split_is_cut_by_location(tmp_path):
    rows = [(f"{place}-{clip}.wav", "bus", "phone", f"place {place}") for place in range(10) for clip in range(4)]
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(tmp_path / "clips.csv", index=False)
    table = read(tmp_path / "clips.csv")
    assert set(table["split"]) == {"train", "validation", "test"}
    assert (table.groupby("location")["split"].nunique() == 1).all()


def test_own_csv_with_a_wrong_split_is_an_error(tmp_path):
    (tmp_path / "clips.csv").write_text("filename,scene,device,split\nx.wav,bus,phone,tset\n")
    with pytest.raises(DataError, match=r"row 2, x\.wav: split 'tset' should be one of train, validation, test"):
        read(tmp_path / "clips.csv")


def test_own_csv_without_a_scene_is_an_error(tmp_path):
    (tmp_path / "clips.csv").write_text("filename,scene,device\nx.wav,,phone\n")
    with pytest.raises(DataError, match=r"row 2, x\.wav: filename, scene and device must not be empty"):
        read(tmp_path / "clips.csv")


def test_a_binary_file_is_no_csv(tmp_path):
    (tmp_path / "clips.csv").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(DataError, match="not readable as a comma separated table"):
        read(tmp_path / "clips.csv")
