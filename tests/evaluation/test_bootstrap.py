import numpy as np
import pandas as pd
import pytest

from adaptf.data.errors import DataError
from adaptf.evaluation import bootstrap
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.scores import macro_accuracy

SCENES, LOCATIONS, CLIPS = 4, 12, 10


def run(correct, **columns):
    """Predictions from (scenes, locations, clips) of whether a clip is recognised."""
    correct = np.asarray(correct, dtype=bool)
    scene, location, _ = (place.ravel() for place in np.indices(correct.shape))
    table = pd.DataFrame(
        {"filename": [f"{row:05}.wav" for row in range(correct.size)], "scene": [f"s{row}" for row in scene]}
    )
    table["location"] = [f"paris-{one}-{other}" for one, other in zip(scene, location, strict=True)]
    return table.assign(predicted=table["scene"].where(correct.ravel(), "other"), **columns)


def drawn(share, seed, shape=(SCENES, LOCATIONS, CLIPS)):
    return np.random.default_rng(seed).random(shape) < share


def width(first, second, **settings):
    found = paired_bootstrap([run(first)], [run(second)], **settings)
    return found.high - found.low


def clip_by_clip(correct):
    """The same clips, each of a place of its own."""
    return np.reshape(correct, (len(correct), -1, 1))


def test_equal_predictions_do_not_differ():
    runs = [run(drawn(0.6, 0)), run(drawn(0.6, 1))]
    found = paired_bootstrap(runs, runs)
    assert (found.mean, found.low, found.high, found.runs_low, found.runs_high) == (0, 0, 0, 0, 0)
    assert not found.stands


def test_a_large_difference_stands():
    found = paired_bootstrap([run(drawn(0.4, 0))], [run(drawn(0.8, 1))])
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(0.4, abs=0.1)
    assert (found.locations, found.runs, found.single_location_scenes) == (SCENES * LOCATIONS, 1, ())
    assert np.isnan([found.runs_low, found.runs_high]).all()
    assert found.stands
    assert paired_bootstrap([run(drawn(0.8, 1))], [run(drawn(0.4, 0))]).stands


def test_a_small_difference_does_not_stand():
    assert not paired_bootstrap([run(drawn(0.6, 0))], [run(drawn(0.6, 1))]).stands


def test_the_difference_is_that_of_the_macro_averages_of_scenes_of_any_size():
    keep = np.random.default_rng(2).random(SCENES * LOCATIONS * CLIPS) < np.repeat(
        [0.2, 0.4, 0.6, 1], LOCATIONS * CLIPS
    )
    first, second = run(drawn(0.5, 0))[keep], run(drawn(0.7, 1))[keep]
    found = paired_bootstrap([first], [second])
    assert found.mean == pytest.approx(macro_accuracy(second) - macro_accuracy(first))
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.01)


def test_clips_of_one_place_that_are_all_alike_count_as_one_clip():
    first, second = drawn(0.5, 0, (SCENES, LOCATIONS, 1)), drawn(0.7, 1, (SCENES, LOCATIONS, 1))
    repeated = [np.repeat(correct, CLIPS, axis=2) for correct in (first, second)]
    assert width(*repeated) == pytest.approx(width(first, second))
    assert width(*repeated) == pytest.approx(np.sqrt(CLIPS) * width(*map(clip_by_clip, repeated)), rel=0.15)


def test_the_interval_is_as_wide_as_the_difference_scatters():
    """Over one clip per place in one scene it is that of a mean; the standard error counts with n - 1."""
    first, second = drawn(0.5, 0, (1, 40, 1)), drawn(0.7, 1, (1, 40, 1))
    gains = second.astype(float) - first
    assert width(first, second) == pytest.approx(2 * 1.96 * gains.std(ddof=1) / np.sqrt(40), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("locations", [3, 12])
def test_95_percent_intervals_hold_the_true_difference_that_often(locations):
    held = []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        shape = (6, locations, 8)
        place = generator.normal(size=(*shape[:2], 1))
        chance = generator.random(shape)
        first = chance < 1 / (1 + np.exp(-place))
        second = chance < 1 / (1 + np.exp(-place - generator.normal(0, 0.5, size=place.shape)))
        found = paired_bootstrap([run(first)], [run(second)], draws=1000, seed=seed)
        held.append(found.low <= 0 <= found.high)
    assert 0.88 <= np.mean(held) <= 0.99


def test_the_same_clips_improved_give_a_narrower_interval_than_others():
    first = drawn(0.5, 0)
    improved = first | drawn(0.2, 1)
    assert width(first, improved) < 0.7 * width(first, drawn(improved.mean(), 2))


def test_the_order_of_rows_does_not_matter():
    first, second = run(drawn(0.5, 0)), run(drawn(0.7, 1))
    shuffled = second.sample(frac=1, random_state=0).reset_index(drop=True)
    found, expected = paired_bootstrap([first.iloc[::-1]], [shuffled]), paired_bootstrap([first], [second])
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)


def test_draws_depend_on_the_seed_alone():
    first, second = drawn(0.5, 0), drawn(0.7, 1)
    assert width(first, second) == width(first, second)
    assert width(first, second) != width(first, second, seed=1)
    assert width(first, second) == pytest.approx(width(first, second, seed=1), rel=0.05)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    first, second = drawn(0.5, 0), drawn(0.7, 1)
    expected = width(first, second, draws=100)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * LOCATIONS)
    assert width(first, second, draws=100) == expected


def test_runs_are_averaged_clip_by_clip():
    first, second = [drawn(0.5, seed) for seed in (0, 1)], [drawn(0.6, seed) for seed in (2, 3)]
    found = paired_bootstrap(list(map(run, first)), list(map(run, second)))
    gains = [new.mean() - old.mean() for old, new in zip(first, second, strict=True)]
    assert (found.mean, found.runs) == (pytest.approx(np.mean(gains)), 2)
    assert found.high - found.low < width(first[0], second[0])


def test_a_difference_that_runs_do_not_agree_on_does_not_stand():
    low, middle, high = (run(drawn(share, seed)) for seed, share in enumerate((0.4, 0.5, 0.95)))
    found = paired_bootstrap([middle, middle], [low, high])
    assert found.low > 0
    assert found.runs_low < 0 < found.runs_high
    assert not found.stands


def test_a_difference_that_runs_agree_on_stands():
    first, second = (
        [run(drawn(share, seed)) for seed in seeds] for share, seeds in ((0.4, range(3)), (0.8, range(3, 6)))
    )
    found = paired_bootstrap(first, second)
    assert 0 < found.runs_low < found.mean < found.runs_high
    assert found.stands


def test_scenes_of_one_place_are_named_and_do_not_widen_the_interval():
    first, second = run(drawn(0.5, 0)), run(drawn(0.7, 1))
    one_place = [
        table.assign(location=table["location"].where(table["scene"] != "s1", "here"))
        for table in (first, second)
    ]
    found, expected = paired_bootstrap(one_place[:1], one_place[1:]), paired_bootstrap([first], [second])
    assert found.single_location_scenes == ("s1",)
    assert found.locations == (SCENES - 1) * LOCATIONS + 1
    assert found.high - found.low < expected.high - expected.low


def test_nothing_stands_where_no_place_can_be_drawn():
    first, second = (run(correct, location="here") for correct in (drawn(0.1, 0), drawn(0.9, 1)))
    found = paired_bootstrap([first], [second])
    assert np.isnan([found.low, found.high]).all()
    assert found.single_location_scenes == ("s0", "s1", "s2", "s3")
    assert not found.stands


def test_a_place_of_several_scenes_is_drawn_in_each_of_them():
    first, second = run(drawn(0.5, 0)), run(drawn(0.7, 1))
    shared = [table.assign(location=table["location"].str[-2:]) for table in (first, second)]
    found, expected = paired_bootstrap(shared[:1], shared[1:]), paired_bootstrap([first], [second])
    assert found.locations == expected.locations
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.05)


@pytest.mark.parametrize("unknown", ["", None])
def test_clips_of_unknown_places_count_by_file(unknown):
    names = [f"{row // 5}.wav#t={row % 5}" for row in range(SCENES * LOCATIONS * CLIPS)]
    runs = [run(drawn(0.5, seed), location=unknown, filename=names) for seed in (0, 1)]
    assert paired_bootstrap(runs[:1], runs[1:]).locations == SCENES * LOCATIONS * CLIPS // 5


def test_other_clips_are_refused_by_name():
    table = run(drawn(0.5, 0))
    with pytest.raises(
        DataError, match=r"00003\.wav is predicted in run 1 of the first .* not in run 2 of the second"
    ):
        paired_bootstrap([table, table], [table, table.drop(index=3)])
    with pytest.raises(
        DataError, match=r"x\.wav is predicted in run 1 of the second .* not in run 1 of the first"
    ):
        paired_bootstrap([table], [table.replace({"filename": {"00003.wav": "x.wav"}})])
    with pytest.raises(DataError, match=r"run 1 of the second setting predicts 00003\.wav twice"):
        paired_bootstrap([table], [pd.concat([table, table.loc[[3]]])])


@pytest.mark.parametrize(("first", "second"), [(1, 3), (0, 0), (2, 0)])
def test_unequal_numbers_of_runs_are_refused(first, second):
    table = run(drawn(0.5, 0))
    with pytest.raises(DataError, match=f"the first has {first}, the second {second}"):
        paired_bootstrap([table] * first, [table] * second)
