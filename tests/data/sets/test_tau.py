import pandas as pd
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets.published_lists import tau_split
from adaptf.data.sets.tau import check_challenge_rule, read_tau

pytestmark = pytest.mark.slow

ONLY_100 = "audio/tram-vienna-2000-0-0-a.wav"
NEITHER = "audio/tram-vienna-2001-0-0-a.wav"


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    names.to_frame("filename").to_csv(path, sep="\t", index=False)


def write_meta(folder, names):
    part = names.str.removeprefix("audio/").str.removesuffix(".wav").str.split("-", expand=True)
    table = {
        "filename": names,
        "scene_label": part[0],
        "identifier": part[1] + "-" + part[2],
        "source_label": part[5],
    }
    pd.DataFrame(table).to_csv(folder / "meta.csv", sep="\t", index=False)


def shuffled(names):
    return names.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tables of the published data set, in short:
    its lists and two more clips, one of them for training."""
    folder = tmp_path_factory.mktemp("published")
    names = pd.concat([tau_split("50"), tau_split("test"), pd.Series([ONLY_100, NEITHER])])
    write_meta(folder, shuffled(names))
    write_list(
        folder / "evaluation_setup/fold1_train.csv", pd.concat([tau_split("50"), pd.Series([ONLY_100])])
    )
    return folder


def with_meta_of(folder, names):
    """A folder whose meta.csv has these clips."""
    write_list(folder / "evaluation_setup/fold1_train.csv", tau_split("50"))
    write_meta(folder, names)
    return folder


def names_of(clips, split):
    return sorted(clips.table.loc[clips.table["split"] == split, "filename"])


def test_the_published_clips_have_scene_device_location_city_and_split(whole):
    clips = read_tau(whole, train_split="5")
    assert clips.published
    assert list(clips.table.columns) == ["filename", "scene", "device", "location", "city", "split"]
    assert set(clips.table["split"]) == {"train", "test"}
    row = clips.table.set_index("filename").loc["audio/airport-lisbon-1000-40000-0-a.wav"]
    assert row.tolist() == ["airport", "a", "lisbon-1000", "lisbon", "train"]


@pytest.mark.parametrize("split", ["5", "10", "25", "50"])
def test_the_challenges_lists_say_which_clips_are_for_training(whole, split):
    clips = read_tau(whole, train_split=split)
    assert names_of(clips, "train") == list(tau_split(split))
    assert names_of(clips, "test") == list(tau_split("test"))


def test_all_of_the_training_clips_are_those_of_the_folders_own_list(whole):
    clips = read_tau(whole, train_split="100")
    assert names_of(clips, "train") == sorted([*tau_split("50"), ONLY_100])
    assert names_of(clips, "test") == list(tau_split("test"))


def test_an_incomplete_download_is_counted_and_its_first_clip_named(tmp_path):
    names = pd.concat([tau_split("25")[7:], tau_split("test")[2:]])
    with pytest.raises(DataError) as error:
        read_tau(with_meta_of(tmp_path, names), train_split="25")
    assert str(error.value).startswith(
        "9 of the 64580 clips of the published 25 % training list and the published test list are not in "
        f"{tmp_path / 'meta.csv'}, the first is audio/airport-barcelona-0-0-0-a.wav: the download is "
        "incomplete."
    )


def test_one_published_name_is_enough_to_know_the_data_set(tmp_path):
    with pytest.raises(DataError, match=r"36659 of the 36660 clips .* the download is incomplete"):
        read_tau(with_meta_of(tmp_path, tau_split("5")[:1]), train_split="5")


def test_an_incomplete_download_is_found_for_all_of_the_training_clips_too(tmp_path):
    names = pd.concat([tau_split("50")[1:], tau_split("test")])
    with pytest.raises(
        DataError,
        match=r"1 of the 99480 clips of evaluation_setup/fold1_train\.csv and the published test list",
    ):
        read_tau(with_meta_of(tmp_path, names), train_split="100")


def test_a_published_test_clip_in_the_folders_training_list_is_an_error(tmp_path):
    folder = with_meta_of(tmp_path, pd.concat([tau_split("50"), tau_split("test")]))
    write_list(
        folder / "evaluation_setup/fold1_train.csv", pd.concat([tau_split("50"), tau_split("test")[:1]])
    )
    with pytest.raises(
        DataError, match=r"is in evaluation_setup/fold1_train\.csv and in the published test list"
    ):
        read_tau(folder, train_split="100")


@pytest.mark.parametrize("split", ["5", "100"])
def test_other_recordings_in_the_layout_use_their_own_lists_whole(tau, split):
    clips = read_tau(tau, train_split=split)
    assert not clips.published
    assert clips.table["split"].value_counts().to_dict() == {"train": 24, "test": 12}


def test_the_city_is_what_stands_before_the_first_dash(tau):
    meta = pd.read_csv(tau / "meta.csv", sep="\t", dtype=str)
    meta.loc[:1, "identifier"] = ["my place", "new-york-5"]
    meta.to_csv(tau / "meta.csv", sep="\t", index=False)
    assert read_tau(tau, train_split="25").table["city"][:3].tolist() == ["my place", "new", "paris"]


def test_no_number_of_the_demo_data_is_a_published_one():
    recordings = pd.concat([tau_split("50"), tau_split("test")]).str.split("-").str[3].astype(int)
    assert recordings.max() < 100_000


@pytest.mark.parametrize("split", ["50", "100"])
def test_more_than_a_quarter_of_the_training_clips_breaks_the_challenges_rule(split):
    with pytest.raises(DataError) as error:
        check_challenge_rule(split, challenge=True)
    assert str(error.value) == (
        f"data.train_split={split} breaks the rule of DCASE 2025 Task 1, 'models must be trained on the 25% "
        f"subset': training on more of TAU means disqualification. Set data.train_split=25 (or smaller), or "
        f"data.challenge=false for work outside the challenge"
    )


def test_the_challenges_rule_binds_its_own_work_only():
    for split in ("5", "10", "25"):
        check_challenge_rule(split, challenge=True)
    for split in ("5", "10", "25", "50", "100"):
        check_challenge_rule(split, challenge=False)
