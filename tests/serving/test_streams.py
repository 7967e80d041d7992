"""Streams: which second follows which, how long they are known, and what the router answers about them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cachetools import TTLCache
from mlflow.exceptions import MlflowException

from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.serving import streams as module
from adaptf.serving.body import Asked, read_table
from adaptf.serving.classify import Answer
from adaptf.serving.local import local_router
from adaptf.serving.places import Place, read_places
from adaptf.serving.router import DeviceRouter
from adaptf.serving.streams import Stream, Streams

CALIBRATION = StreamCalibration(factor=1.0, dependence=0.5, threshold=0.5)
RATE = 32000


def follow(streams: Streams, *places: tuple[str, int], clips: int = 1, scene: int = 0) -> list[Stream]:
    rows = [Place(row, *place) for row, place in enumerate(places)]
    probabilities = np.full((clips, 3), 0.2)
    probabilities[:, scene] = 0.6
    answer = Answer("a", "a", "adaptf-a/1", float(clips), probabilities, CALIBRATION)
    return streams.follow(rows, [answer] * len(rows), stay_seconds=120.0)


def test_seconds_make_a_stream_surer_and_streams_do_not_touch() -> None:
    streams = Streams()
    (first,) = follow(streams, ("walk", 0))
    second, other, third = follow(streams, ("walk", 1), ("park", 0), ("walk", 2))
    tops = [one.belief.probabilities.max() for one in (first, second, third)]
    assert tops == sorted(tops) and tops[0] == pytest.approx(0.6)
    assert other.belief.probabilities.max() == pytest.approx(0.6)
    assert (third.seconds_heard, third.next_second, third.name) == (3, 3, "walk")


def test_a_long_row_counts_as_its_seconds() -> None:
    one_by_one, at_once = Streams(), Streams()
    *_, last = follow(one_by_one, *(("walk", second) for second in range(5)))
    (same,) = follow(at_once, ("walk", 0), clips=5)
    assert same.seconds_heard == same.next_second == 5
    np.testing.assert_allclose(same.belief.probabilities, last.belief.probabilities)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (("walk", 2), "row 0: second 2 of stream 'walk' was heard already, or comes too late: the next is 5"),
        (("walk", 4), "the next is 5"),
        (("other", 3), "row 0: second 3 of stream 'other' follows nothing that is known here: begin with"),
    ],
)
def test_repeated_late_and_unknown_seconds_are_told_and_change_nothing(place, told) -> None:
    streams = Streams()
    follow(streams, ("walk", 0), clips=5)
    with pytest.raises(MlflowException, match=told):
        follow(streams, place)
    with pytest.raises(MlflowException, match="row 1: second 2"):  # as a whole or not at all
        follow(streams, ("walk", 5), ("walk", 2))
    assert follow(streams, ("walk", 5))[0].seconds_heard == 6


def test_missing_seconds_make_it_less_sure_and_are_seen_in_what_was_heard() -> None:
    streams = Streams()
    (before,) = follow(streams, ("walk", 0), clips=10)
    (after,) = follow(streams, ("walk", 3000))
    assert (after.seconds_heard, after.next_second) == (11, 3001)
    assert after.belief.probabilities.max() < before.belief.probabilities.max()
    assert after.belief.probabilities.max() == pytest.approx(0.6, abs=0.01)


def test_second_0_begins_anew() -> None:
    streams = Streams()
    follow(streams, ("walk", 0), clips=9)
    assert follow(streams, ("walk", 0))[0].seconds_heard == 1


def test_streams_are_bounded_in_number_and_age(monkeypatch) -> None:
    monkeypatch.setattr(module, "STREAMS_AT_ONCE", 2)
    streams = Streams()
    for name in "abc":
        follow(streams, (name, 0))
    with pytest.raises(MlflowException, match="stream 'a' follows nothing"):
        follow(streams, ("a", 1))
    follow(streams, ("b", 1))
    now = [0.0]
    streams._held = TTLCache(2, module.FORGOTTEN_AFTER_SECONDS, timer=lambda: now[0])
    follow(streams, ("a", 0))
    now[0] = module.FORGOTTEN_AFTER_SECONDS - 1
    follow(streams, ("a", 1))
    now[0] *= 2  # its age counts from the last second
    follow(streams, ("a", 2))
    now[0] *= 2
    with pytest.raises(MlflowException, match="follows nothing"):
        follow(streams, ("a", 3))


def test_threads_do_not_lose_each_others_seconds() -> None:
    streams = Streams()
    starts = threading.Barrier(8)

    def hear(name: str) -> None:
        starts.wait()
        for second in range(50):
            follow(streams, (name, second))

    threads = [threading.Thread(target=hear, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [follow(streams, (str(number), 50))[0].seconds_heard for number in range(8)] == [51] * 8


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"stream": None}, "row 0: stream should be a name of 1 to 100 characters, got None"),
        ({"stream": "x" * 101}, "row 0: stream should be a name of 1 to 100 characters"),
        ({"stream": ""}, "row 0: stream should be a name"),
        ({"second": -1}, "row 0: second should be a whole number from 0 to 1000000000, got -1"),
        ({"second": 1.5}, "row 0: second should be a whole number from 0"),
        ({"second": True}, "row 0: second should be a whole number"),
        ({"second": float("nan")}, "row 0: second should be a whole number"),
        ({"second": "0"}, "row 0: second should be a whole number"),
    ],
)
def test_a_wrong_place_is_told(changed, told) -> None:
    table = pd.DataFrame([{"audio": "", "stream": "walk", "second": 0} | changed], dtype=object)
    with pytest.raises(MlflowException, match=told):
        read_places(table, of_streams=True)


def test_columns_and_aggregate_belong_together() -> None:
    with pytest.raises(MlflowException, match="column 'second' is for aggregate='stream'"):
        read_places(pd.DataFrame({"audio": [""], "second": [0]}), of_streams=False)
    with pytest.raises(MlflowException, match="aggregate='stream' needs the columns 'stream' and 'second'"):
        read_places(pd.DataFrame({"audio": [""], "stream": ["walk"]}), of_streams=True)
    for empty in ({}, {"stream": [None], "second": [float("nan")]}):
        assert read_places(pd.DataFrame({"audio": [""]} | empty), of_streams=False) == []


def test_a_body_may_hold_streams() -> None:
    row = {"audio": "UklGRg==", "device": "a", "stream": "walk", "second": 3}
    body = {"dataframe_records": [row], "params": {"aggregate": "stream"}}
    assert read_table(json.dumps(body).encode(), "application/json") == Asked([row], body["params"])


@pytest.fixture(scope="module")
def router(make_bundle: Callable[..., Path]) -> DeviceRouter:
    return local_router(make_bundle("b", "unknown", stream=CALIBRATION))


def ask(router: DeviceRouter, rows: list[dict[str, object]], **params: object) -> pd.DataFrame:
    return router.predict(None, pd.DataFrame(rows), {"aggregate": "stream", **params})


def test_the_router_answers_with_the_scene_so_far(router, noise, encoded, scenes) -> None:
    clips = [encoded(noise(RATE, seed)) for seed in range(3)]
    rows = [
        {"audio": clip, "device": "b", "stream": "walk", "second": second}
        for second, clip in enumerate(clips)
    ]
    first = ask(router, rows[:1])
    single = router.predict(None, pd.DataFrame(rows[:1])[["audio", "device"]])
    assert first.probability[0] == pytest.approx(single.probability[0], abs=2e-3)
    answer = ask(router, rows[1:], top_k=2)
    assert list(answer.columns[:5]) == ["stream", "second", "seconds_heard", "scene", "probability"]
    assert answer[["stream", "second", "seconds_heard"]].values.tolist() == [["walk", 1, 2], ["walk", 2, 3]]
    assert [len(row) for row in answer.probabilities] == [2, 2]
    for row in answer.itertuples():
        best = max(row.probabilities, key=row.probabilities.get)
        assert row.scene == (best if row.probability >= 0.5 else "unsure")
    with pytest.raises(MlflowException, match="row 0: second 1 of stream 'walk' was heard already"):
        ask(router, rows[1:2])


@pytest.mark.parametrize("stay", [0, -1, True, "60", float("nan"), 1e6])
def test_a_wrong_stay_is_told(stay, router) -> None:
    with pytest.raises(MlflowException, match="stay_seconds should be from 1 to 86400"):
        ask(router, [{"audio": "", "stream": "walk", "second": 0}], stay_seconds=stay)


def test_servers_of_versions_before_read_all_of_a_bundle_but_its_calibration(make_bundle, bundle) -> None:
    folder = make_bundle("a", "b", "unknown", stream=CALIBRATION)
    assert (folder / "router.json").read_text() == (bundle / "router.json").read_text()


def test_a_version_without_a_calibration_says_what_to_do(bundle, noise, encoded) -> None:
    row = {"audio": encoded(noise(RATE)), "device": "b", "stream": "walk", "second": 0}
    with pytest.raises(MlflowException, match="row 0: adaptf-b/2 was registered without what streams need"):
        ask(local_router(bundle), [row])
