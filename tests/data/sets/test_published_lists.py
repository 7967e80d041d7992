import tomllib
from pathlib import Path

import pandas as pd
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets import published_lists
from adaptf.data.sets.published_lists import AUDIOSET_LABELS, is_in, is_in_tau, tau_split
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES

REPOSITORY = Path(__file__).parents[3]
ORIGINALS = REPOSITORY.parent / "shared" / "data"
COUNTS = {"5": 6980, "10": 13960, "25": 34900, "50": 69800, "test": 29680}
needs_originals = pytest.mark.skipif(
    not ORIGINALS.is_dir(), reason="the lists as they were published are not here"
)


def parts(split):
    """scene, city, location, recording, segment, device of each name."""
    return tau_split(split).str.removeprefix("audio/").str.removesuffix(".wav").str.split("-", expand=True)


def locations(split):
    table = parts(split)
    return set(table[1] + "-" + table[2])


@pytest.fixture
def fresh():
    """The list is read anew within the test, and after it."""
    published_lists._tau_splits.cache_clear()
    yield
    published_lists._tau_splits.cache_clear()


@pytest.mark.parametrize(("split", "count"), COUNTS.items())
def test_each_split_has_its_published_size_and_each_name_once(split, count):
    assert len(tau_split(split)) == tau_split(split).nunique() == count


def test_the_25_percent_split_has_the_published_counts_of_devices():
    counts = parts("25")[5].value_counts().to_dict()
    assert counts == {"a": 25520, "b": 1900, "c": 1920, "s1": 1840, "s2": 1850, "s3": 1870}


def test_three_devices_are_in_the_test_list_only():
    assert set(parts("test")[5]) - set(parts("50")[5]) == {"s4", "s5", "s6"}


def test_names_are_those_of_meta_csv():
    names = tau_split("test")
    assert "audio/airport-barcelona-203-6129-0-a.wav" in set(names)
    assert names.is_monotonic_increasing
    assert set(parts("50")[0]) == set(parts("test")[0]) == set(TAU_SCENES)


def test_each_training_split_holds_the_smaller_ones():
    splits = [set(tau_split(split)) for split in ("5", "10", "25", "50")]
    assert splits[0] < splits[1] < splits[2] < splits[3]


def test_training_and_test_share_neither_a_clip_nor_a_location():
    assert set(tau_split("50")).isdisjoint(tau_split("test"))
    assert locations("50").isdisjoint(locations("test"))
    assert (len(locations("50")), len(locations("test"))) == (365, 146)


@needs_originals
@pytest.mark.parametrize("split", COUNTS)
def test_each_split_is_the_published_one_name_by_name(split):
    file = "test.csv" if split == "test" else f"split{split}.csv"
    original = pd.read_csv(ORIGINALS / "tau_splits" / file, sep="\t", dtype=str)["filename"]
    assert sorted(original) == list(tau_split(split))


def test_names_of_the_lists_are_told_from_others():
    names = pd.Series(["audio/airport-barcelona-203-6129-0-a.wav", "audio/bus-paris-0-0-0-a.wav"])
    assert is_in_tau(names).tolist() == [True, False]


def test_names_are_found_whatever_their_dtype():
    names = pd.Series(["x", "y", "x"], dtype=object)
    for dtype in (object, "str", "string"):
        assert is_in(names.astype(dtype), pd.Series(["x", "z"])).tolist() == [True, False, True]
        assert is_in(names, pd.Series(["x", "z"], dtype=dtype)).tolist() == [True, False, True]


def test_a_changed_list_is_refused(fresh, tmp_path, monkeypatch):
    content = bytearray(published_lists.TAU_SPLITS.read_bytes())
    content[1000] ^= 1
    damaged = tmp_path / "tau_splits.csv.gz"
    damaged.write_bytes(content)
    monkeypatch.setattr(published_lists, "TAU_SPLITS", damaged)
    with pytest.raises(DataError) as error:
        tau_split("5")
    assert str(error.value) == (
        f"{damaged} is not the file that was released: the installed package is damaged, install it again"
    )


def test_a_lost_list_is_an_error(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(published_lists, "TAU_SPLITS", tmp_path / "tau_splits.csv.gz")
    with pytest.raises(
        DataError, match=r"cannot be read \(.+\): the installed package is damaged, install it again"
    ):
        tau_split("test")


def test_the_labels_of_audioset_are_527_in_their_order():
    table = pd.read_csv(AUDIOSET_LABELS)
    assert list(table.columns) == ["index", "mid", "display_name"]
    assert table["index"].tolist() == list(range(527))
    assert table["mid"].is_unique and table["display_name"].is_unique
    assert table["display_name"].iloc[[0, 1, 526]].tolist() == [
        "Speech",
        "Male speech, man speaking",
        "Field recording",
    ]


@needs_originals
def test_the_labels_of_audioset_are_the_published_ones():
    assert AUDIOSET_LABELS.read_bytes() == (ORIGINALS / "audioset" / "class_labels_indices.csv").read_bytes()


def test_the_lists_are_installed_with_the_package_and_their_sources_named():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    package = REPOSITORY / "adaptf"
    installed = {
        path
        for glob in settings["tool"]["setuptools"]["package-data"]["adaptf"]
        for path in package.glob(glob)
    }
    sources = published_lists.FOLDER / "SOURCES.md"
    assert {published_lists.TAU_SPLITS, AUDIOSET_LABELS, sources} <= installed
    assert published_lists.TAU_SPLITS.name in sources.read_text()
    assert AUDIOSET_LABELS.name in sources.read_text()
    assert "CC BY 4.0" in sources.read_text()
