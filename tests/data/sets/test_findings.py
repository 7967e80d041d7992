import pandas as pd
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets.findings import Finding, check_leaks, find


def clip_table(*rows):
    """Clips of (filename, scene, location, split, key)."""
    return pd.DataFrame(rows, columns=["filename", "scene", "location", "split", "key"]).assign(device="a")


@pytest.fixture
def table():
    return clip_table(
        ("bus0.wav", "bus", "paris-0", "train", "k0"),
        ("bus1.wav", "bus", "paris-1", "validation", "k1"),
        ("bus2.wav", "bus", "paris-2", "test", "k2"),
        ("park3.wav", "park", "paris-3", "train", "k3"),
        ("park4.wav", "park", "paris-4", "train", "k4"),
        ("park5.wav", "park", "paris-5", "test", "k5"),
    )


def levels(table, **columns):
    usual = {"seconds": 1.0, "peak": 0.5, "rms": 0.1, "dc": 0.0005, "clipped": 0.0}
    return pd.DataFrame(usual | columns, index=range(len(table)))


def changed(table, row, **cells):
    table = table.copy()
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


def found(table, levels):
    return {finding.name: finding.files for finding in find(table, levels, clip_seconds=1.0)}


def message(*arguments, **settings):
    with pytest.raises(DataError) as error:
        check_leaks(*arguments, **settings)
    return str(error.value)


def test_splits_that_are_apart_are_no_leak_and_nothing_odd_is_no_finding(table):
    check_leaks(table)
    assert find(table, levels(table), clip_seconds=1.0) == []


@pytest.mark.parametrize(("row", "other"), [(1, "validation"), (2, "test")])
def test_the_same_audio_in_two_splits_is_an_error_that_names_both(table, row, other):
    assert message(changed(table, row, key="k0"), source="clips.csv") == (
        "1 problem in the splits of clips.csv:\n"
        f"  the same audio is in two splits: bus0.wav (train) and bus{row}.wav ({other}); leave it in one of "
        "them"
    )


def test_every_leaked_sound_is_one_problem(table):
    table = table.assign(key=["k0", "k0", "k0", "k3", "k3", "k3"])
    assert message(table) == (
        "2 problems in the splits of the data:\n"
        "  the same audio is in two splits: bus0.wav (train) and bus1.wav (validation) and bus2.wav (test); "
        "leave it in one of them\n"
        "  the same audio is in two splits: park3.wav (train) and park5.wav (test); leave it in one of them"
    )


def test_silence_in_two_splits_is_no_leak(table):
    table = changed(table, [0, 1, 2], key="zeros")
    check_leaks(table, silent=[True, True, True, False, False, False])
    assert "bus1.wav (validation)" in message(table, silent=[True, False, False, False, False, False])


def test_a_location_on_both_sides_of_the_validation_cut_is_an_error(table):
    assert message(changed(table, 1, location="paris-0")) == (
        "1 problem in the splits of the data:\n"
        "  location 'paris-0' is on both sides of the validation cut: bus0.wav (train) and bus1.wav "
        "(validation); leave it on one side"
    )


def test_a_location_of_which_files_were_cut_may_be_on_both_sides(table):
    cut = changed(table, 1, location="paris-0")
    check_leaks(cut, cut_by_file={"bus"})
    assert "location 'paris-0'" in message(cut, cut_by_file={"park"})


def test_clips_of_unknown_location_share_none(table):
    check_leaks(table.assign(location=""))


@pytest.mark.parametrize("row", [0, 1])
def test_a_location_in_training_and_test_is_found_but_no_error(table, row):
    table = changed(table, 2, location=f"paris-{row}")
    check_leaks(table)
    assert found(table, levels(table)) == {
        "locations in training and test": (f"paris-{row} (1 in training, 1 in test)",)
    }


def test_the_same_audio_twice_in_one_split_is_found_and_silence_is_not(table):
    table = changed(table, [3, 4], key="k0")
    assert found(table, levels(table)) == {"duplicates": ("bus0.wav = park3.wav = park4.wav",)}
    assert found(table, levels(table, peak=[0, 0.5, 0.5, 0, 0.5, 0.5])) == {
        "silent": ("bus0.wav", "park3.wav")
    }


def test_clips_below_minus_80_dbfs_are_silent(table):
    quiet = levels(table, peak=[0.99e-4, 1.01e-4, 0.5, 0.5, 0.5, 0.0])
    assert find(table, quiet, clip_seconds=1.0) == [
        Finding("silent", ("bus0.wav", "park5.wav"), "peak below -80 dBFS: there is nothing to learn from")
    ]


def test_clips_with_more_than_a_thousandth_at_full_scale_are_clipped(table):
    loud = levels(table, peak=1.0, clipped=[0, 0.9e-3, 1.1e-3, 0, 0, 1])
    assert find(table, loud, clip_seconds=1.0) == [
        Finding(
            "clipped",
            ("bus2.wav", "park5.wav"),
            "more than 0.1% of the samples at full scale: recorded too loud",
        )
    ]


def test_an_offset_is_far_from_zero_and_no_part_of_a_loud_rumble(table):
    offsets = levels(table, dc=[0.015, 0.03, -0.03, 0.03, 0.0, 0.3], rms=[0.016, 0.1, 0.1, 0.4, 0.1, 0.3])
    assert find(table, offsets, clip_seconds=1.0) == [
        Finding(
            "DC offset",
            ("bus1.wav", "bus2.wav", "park5.wav"),
            "mean beyond 2% of full scale: a fault of the recorder",
        )
    ]


def test_clips_that_had_to_be_padded_are_short(table):
    lengths = levels(table, seconds=[0.5, 0.9995, 1.0, 60.0, 0.99, 1.0])
    assert find(table, lengths, clip_seconds=1.0) == [
        Finding("short", ("bus0.wav", "park4.wav"), "less than 1 s: padded with zeros at the end")
    ]


def test_scenes_that_no_validation_part_can_be_cut_from_are_found(table):
    table = pd.concat(
        [
            changed(table, 1, location="paris-0", split="train"),
            clip_table(("t.wav", "tram", "x", "test", "t")),
        ]
    )
    assert found(table, levels(table)) == {
        "scenes that cannot be cut": ("bus (1 location)", "tram (0 locations)")
    }


def test_names_that_only_look_alike_are_found(table):
    table = table.assign(
        device=["phone", "Phone", "phone", "zoom-h4n", "Zoom H4n", "phone"],
        city=["Oslo", "oslo", *4 * ["Rome"]],
    )
    table = changed(changed(table, 4, scene="Park"), 0, location="Paris_1")
    assert found(table, levels(table))["names that look alike"] == (
        "scene Park = park",
        "device Phone = phone",
        "device Zoom H4n = zoom-h4n",
        "location Paris_1 = paris-1",
        "city Oslo = oslo",
    )


def test_audioset_has_no_locations():
    table = pd.DataFrame({"filename": ["a", "b"], "labels": ["3", "3 17"], "split": "train", "key": "k"})
    check_leaks(table)
    assert found(table, levels(table)) == {"duplicates": ("a = b",)}


def test_levels_belong_to_the_table_row_by_row_whatever_its_index(table):
    part = table.iloc[[4, 2, 0, 3, 1]]
    assert found(part, levels(part, peak=[0, 0.5, 0.5, 0.5, 0.5])) == {"silent": ("park4.wav",)}
