"""Which clips two versions of a model are compared on, and what of the difference is believed."""

from dataclasses import replace

import pandas as pd
import pytest
from fixtures.predictions import predictions

from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.promotion.comparison import Comparison, compare_predictions, corrected


def test_clips_of_the_device_decide_where_they_are_enough_and_else_those_of_all_devices():
    own = predictions(0.8, places=10)
    others = predictions(0.8).assign(device="a", filename=lambda table: "a-" + table["filename"])
    worse_on_a = predictions(0.2).assign(device="a", filename=others["filename"])
    before, after = pd.concat([own, others]), pd.concat([predictions(0.9, places=10), worse_on_a])
    judged, difference = compare_predictions(before, after, "s1")
    assert (judged.of, len(judged.filenames), difference.mean) == ("of s1", 160, pytest.approx(0.1))
    few = before["filename"].isin(own["filename"].iloc[5:75])
    judged, difference = compare_predictions(before[~few], after[~few], "s1")
    assert judged.of == "of all devices (only 90 usable ones are of s1)" and difference.mean < 0
    assert compare_predictions(before, after, "unknown")[0].of == "of all devices"


def test_versions_that_were_judged_on_few_clips_of_their_device_alone_are_not_compared():
    table = predictions(0.8, places=4)
    with pytest.raises(
        UserError, match=r"both were judged on clips of s1 alone, of which \d+ can decide: too few"
    ):
        compare_predictions(table, table, "s1")


def test_a_scene_of_one_place_decides_nothing_and_is_named():
    before, after = predictions(0.8), predictions(0.8)
    of_bus = after["scene"] == "bus"
    after = after.assign(predicted=after["predicted"].mask(of_bus, "airport"))
    before, after = (
        table.assign(location=table["location"].mask(of_bus, "line 1")) for table in (before, after)
    )
    judged, difference = compare_predictions(before, after, "unknown")
    assert (judged.of_one_place, difference.mean, difference.high) == (("bus",), 0, 0)
    assert str(judged) == "80 validation clips of both, of all devices; bus left out, as of one place"


def test_what_may_be_chance_among_seven_models_refuses_none():
    difference = replace(paired_bootstrap([predictions(0.8)], [predictions(0.5)]), p=0.02)
    one = Comparison("adaptf-a", "2", "1", None, difference, difference.p)
    assert [found.is_worse for found in corrected([one])] == [True]
    assert not any(found.is_worse for found in corrected([one] * 7))


def test_only_clips_of_both_are_compared():
    before, after = predictions(0.5, clips=40), predictions(0.5, clips=80)
    judged, difference = compare_predictions(before, after, "unknown")
    assert (len(judged.filenames), difference.mean) == (80, pytest.approx(0.5))


def test_models_that_tell_other_scenes_apart_are_not_compared():
    before, after = predictions(), predictions().drop(columns="bus")
    for one, other in ((before, after), (after, before)):
        with pytest.raises(
            UserError, match=r"it tells .* apart, the other one .*: these are different tasks"
        ):
            compare_predictions(one, other, "s1")


def test_one_place_per_scene_gives_no_interval():
    with pytest.raises(
        UserError, match="the 160 clips of both are of one place per scene, which gives no interval"
    ):
        compare_predictions(predictions(places=1), predictions(places=1), "s1")


def test_a_clip_whose_scene_was_changed_is_not_common():
    after = predictions()
    after.loc[0, "scene"] = "bus"
    assert len(compare_predictions(predictions(), after, "s1")[0].filenames) == 159
