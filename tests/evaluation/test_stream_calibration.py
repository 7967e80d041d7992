"""The forward filter, and what recordings tell of it."""

from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest

from adaptf.evaluation.forward_filter import Belief, StreamCalibration, heard, later, no_belief
from adaptf.evaluation.stream_calibration import calibrate_stream, filtered, recordings_of

SCENES = ["airport", "bus", "metro"]
INDEPENDENT = StreamCalibration(factor=1.0, dependence=0.0, threshold=0.5)
STAY = 120.0


def predictions(names: list[str], scenes: list[str], logits: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"filename": names, "scene": scenes, "device": "a", "location": ""})
    table["predicted"] = [SCENES[place] for place in logits.argmax(axis=1)]
    return pd.concat([table, pd.DataFrame(logits, columns=SCENES)], axis=1)


def simulated(*, shared: float, own: float, recordings: int = 400, seed: int = 0) -> pd.DataFrame:
    """Recordings of ten seconds of which each logit has a part of its place and one of its second."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(3, size=recordings)
    of_place = shared * generator.standard_normal((recordings, 1, 3))
    logits = of_place + own * generator.standard_normal((recordings, 10, 3)) + 1.5 * np.eye(3)[truth][:, None]
    names = [f"audio/x-lisbon-1-{row}-{second}-a.wav" for row in range(recordings) for second in range(10)]
    return predictions(names, [SCENES[place] for place in truth.repeat(10)], logits.reshape(-1, 3))


def test_independent_seconds_are_filtered_as_by_all_ways_through_the_scenes() -> None:
    """While all seconds are in the memory, of a stream that never leaves its scene and of one that does."""
    seconds = np.random.default_rng(0).dirichlet(np.ones(3), size=4)
    belief = no_belief(3)
    for second in seconds:
        belief = heard(belief, second, INDEPENDENT, stay_seconds=STAY)
    stays = np.exp(-1 / STAY)
    change = np.full((3, 3), (1 - stays) / 2) + (stays - (1 - stays) / 2) * np.eye(3)
    expected = np.zeros(3)
    for way in product(range(3), repeat=4):
        moves = np.prod([change[one, other] for one, other in pairwise(way)])
        expected[way[-1]] += moves * np.prod([seconds[at, scene] for at, scene in enumerate(way)])
    # The memory of 3 to 10 s is no limit yet, and nothing weighs less than one.
    np.testing.assert_allclose(belief.probabilities, expected / expected.sum(), rtol=1e-6)


def test_wholly_dependent_seconds_say_no_more_than_one() -> None:
    second = np.array([0.6, 0.3, 0.1])
    belief = no_belief(3)
    for _ in range(30):
        belief = heard(belief, second, StreamCalibration(1.0, 1.0, 0.5), stay_seconds=86_400.0)
    np.testing.assert_allclose(belief.probabilities, second, atol=0.01)


@pytest.mark.parametrize("dependence", [0.0, 0.5, 1.0])
def test_a_change_is_followed_and_belief_stays_a_number(dependence) -> None:
    first, other = np.array([1.0, 0.0, 0.0]), np.array([0.02, 0.96, 0.02])
    belief = no_belief(3)
    for _ in range(1000):
        belief = heard(belief, first, StreamCalibration(1.0, dependence, 0.5), stay_seconds=STAY)
    assert belief.probabilities.argmax() == 0 and belief.remembered == 10
    for _ in range(600):
        belief = heard(belief, other, StreamCalibration(1.0, dependence, 0.5), stay_seconds=STAY)
    assert belief.probabilities.argmax() == 1 and np.isfinite(belief.probabilities).all()


def test_what_nobody_heard_makes_a_belief_less_sure_until_nothing_is_known() -> None:
    belief = Belief(np.array([0.9, 0.06, 0.04]), 10)
    some = later(belief, 30, stay_seconds=60.0)
    assert 1 / 3 < some.probabilities[0] < 0.9 and 0 < some.remembered < 10
    np.testing.assert_allclose(later(belief, 10_000, stay_seconds=60.0).probabilities, 1 / 3)
    np.testing.assert_allclose(later(belief, 0, stay_seconds=60.0).probabilities, belief.probabilities)


def test_recordings_are_told_by_names_of_tau_and_by_parts_of_files() -> None:
    names = [
        "audio/bus-lyon-1-7-10-a.wav", "audio/bus-lyon-1-7-2-a.wav", "audio/bus-lyon-1-7-2-b.wav",
        "walk.flac", "walk.flac#t=1", "else/any-name.wav",
    ]  # fmt: skip
    logits = np.arange(18.0).reshape(6, 3)
    found = recordings_of(predictions(names, ["bus"] * 6, logits), SCENES)
    assert sorted(one.shape for one, _ in found) == [(2, 1, 3), (2, 2, 3)]
    (pairs,) = (one for one, _ in found if one.shape[1] == 2)
    np.testing.assert_array_equal(pairs, [[logits[1], logits[0]], [logits[3], logits[4]]])


def test_dependence_is_found_and_makes_probabilities_right() -> None:
    independent = calibrate_stream(simulated(shared=0.0, own=1.2), SCENES)
    dependent = calibrate_stream(simulated(shared=1.0, own=0.7), SCENES)
    assert independent.dependence < 0.1 < 0.4 < dependent.dependence < 0.9
    ((logits, truth),) = recordings_of(simulated(shared=1.0, own=0.7, seed=1), SCENES)
    found = filtered(logits, dependent)
    for second in (0, 4, 9):
        right = (found[:, second].argmax(axis=1) == truth).mean()
        assert abs(found[:, second].max(axis=1).mean() - right) < 0.06


def test_seconds_that_are_each_right_with_60_percent_are_far_more_often_right_after_ten() -> None:
    ((logits, truth),) = recordings_of(simulated(shared=0.0, own=1.7), SCENES)
    right = filtered(logits, INDEPENDENT).argmax(axis=2) == truth[:, None]
    assert 0.55 < right[:, 0].mean() < 0.65 < 0.9 < right[:, 9].mean()


def test_the_threshold_parts_what_is_more_often_right_than_wrong() -> None:
    found = calibrate_stream(simulated(shared=1.0, own=0.7), SCENES)
    assert 0.35 < found.threshold < 0.6
    hopeless = simulated(shared=0.0, own=1.0)
    hopeless["scene"] = np.roll(hopeless["scene"], 10)
    hopeless[SCENES] = -hopeless[SCENES]
    assert calibrate_stream(hopeless, SCENES).threshold > 0.4


def test_seconds_of_which_nothing_tells_the_recording_are_taken_for_dependent() -> None:
    table = simulated(shared=0.0, own=1.2)
    table["filename"] = [f"{row}.wav" for row in range(len(table))]
    assert calibrate_stream(table, SCENES).dependence == 1
