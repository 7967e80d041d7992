from pathlib import Path

import pytest
from fixtures.noise_data import write_cochlscene

from adaptf.data.clips import check_parts, gaps
from adaptf.data.sets.findings import check_leaks
from adaptf.data.sets.read_clips import read_clips


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cochlscene(tmp_path / "CochlScene", seconds=0.01)


def read(root: Path):
    return read_clips(root, validation_share=0.5, test_share=0.5, seed=0)


def test_its_own_lists_are_the_splits(root):
    table = read(root).table.set_index("filename")
    assert table["split"].value_counts().to_dict() == {"train": 6, "validation": 3, "test": 3}
    assert dict(table.loc["Val/Cafe/Cafe_user0001_14897251_000.wav"]) == {
        "scene": "Cafe",
        "device": "unknown",
        "location": "Cafe_user0001_14897251",
        "city": "",
        "split": "validation",
    }


def test_files_of_a_recording_are_of_one_location(root):
    clips = read(root).table
    assert clips.groupby("location").size().to_list() == [2, 1, 1] * 3
    check_parts(clips, source="CochlScene")
    check_leaks(clips.assign(key=clips["filename"]))
    assert gaps(clips, ("Bus", "Cafe", "Park")) == []


def test_it_is_cut_into_clips_and_meant_for_pre_training(root):
    found = read(root)
    assert found.scenes == ("Bus", "Cafe", "Park")
    assert found.any_length and found.to_pretrain
    assert found.notes == ("CochlScene by its own lists: 12 of its 76,115 files",)


def test_files_elsewhere_and_other_files_are_left_alone(root):
    for name in (
        "intro.wav",
        "Train/stray.wav",
        "Train/Bus/notes.txt",
        "Train/Bus/more/a.wav",
        "Old/Bus/a.wav",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert len(read(root).table) == 12


def test_a_file_whose_name_tells_no_recording_is_a_place_of_its_own(root):
    (root / "Train/Bus/a.wav").touch()
    assert read(root).table.set_index("filename").loc["Train/Bus/a.wav", "location"] == ""
