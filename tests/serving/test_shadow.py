"""Candidates beside production: what they are asked, what is counted of it,
and that nobody who asks production notices."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch
from fixtures.shadow import bundle_of, of_a, saying
from prometheus_client import generate_latest

from adaptf.errors import UserError
from adaptf.mlproject.serve import ServeConfig, load_router
from adaptf.serving.candidates import Candidates
from adaptf.serving.live import Follower
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings
from adaptf.serving.shadow import Shadow
from adaptf.serving.shadow_status import ShadowMetrics, shadow_page

LIMIT_SECONDS = 60.0


@pytest.fixture
def follower() -> Follower:
    """Production: a says tram, all others park."""
    models = {"a": saying("adaptf-a/1", "tram", "one"), "unknown": saying("adaptf-unknown/1", "park")}
    return Follower(bundle_of(**models), check_seconds=0.05)


@pytest.fixture
def candidates(follower, candidacies) -> Candidates:
    return Candidates(follower, named=candidacies.candidates, download=candidacies.download)


@pytest.fixture
def begin(follower, candidates) -> Iterator[Callable[..., DeviceRouter]]:
    """A router whose shadow has begun, and looked at the registry."""
    begun: list[Shadow] = []

    def start(*, share: float = 1.0, core_share: float = 1.0) -> DeviceRouter:
        router = DeviceRouter()
        router.start(follower, Settings())
        begun.append(Shadow(follower, candidates, share=share, core_share=core_share))
        router.begin_shadow(begun[0], ShadowMetrics(begun[0]))
        until(lambda: candidates.models or candidates.notes or not candidates.named())
        return router

    yield start
    for shadow in begun:
        shadow.stop()


@pytest.fixture
def clips(noise, encoded) -> Callable[[int], pd.DataFrame]:
    """A request of one row of so many clips, of device a."""
    return lambda seconds: pd.DataFrame({"audio": [encoded(noise(32000 * seconds))], "device": ["a"]})


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.005)


def of_device_a(router: DeviceRouter) -> dict:
    return shadow_page(router.shadow)["devices"]["a"]


def lines(caplog, event: str = "shadow") -> list[dict]:
    found = [json.loads(record.getMessage()) for record in caplog.records]
    return [line for line in found if line["event"] == event]


def test_a_candidate_is_asked_too_and_production_answers(candidacies, begin, clips, caplog):
    candidacies.name("adaptf-a", "2", of_a("bus"), "two")
    with caplog.at_level(logging.INFO, "adaptf.router"):
        router = begin()
        answer = router.predict(None, clips(3))
        until(lambda: of_device_a(router)["clips"] == 3)
    assert answer.scene.tolist() == ["tram"] and answer.version_used.tolist() == ["adaptf-a/1"]
    assert of_device_a(router) == {
        "version": "adaptf-a/2", "sha256": "two", "production": "adaptf-a/1", "production_sha256": "one",
        "clips": 3, "agreed": 0, "errors": 0, "scenes": {"tram": {"clips": 3, "agreed": 0}},
        "changed": [{"scene": "tram", "shadow_scene": "bus", "clips": 3}],
    }  # fmt: skip
    changed = [line for line in lines(caplog) if line["message"] == "another scene"]
    assert len(changed) == 3
    assert changed[0] == changed[0] | {
        "device": "a", "version": "adaptf-a/2", "production": "adaptf-a/1", "scene": "tram",
        "shadow_scene": "bus",
    }  # fmt: skip


def test_agreement_is_a_metric_by_device_and_scene(candidacies, begin, clips):
    candidacies.name("adaptf-a", "2", of_a("tram"))
    router = begin()
    router.predict(None, clips(2))
    until(lambda: of_device_a(router)["clips"] == 2)
    read = router.monitor.metrics.get_sample_value
    labels = {"device": "a", "version": "adaptf-a/2", "production": "adaptf-a/1"}
    assert read("adaptf_shadow_clips_total", labels | {"scene": "tram"}) == 2
    assert read("adaptf_shadow_agreed_total", labels | {"scene": "tram"}) == 2
    assert read("adaptf_shadow_errors_total", labels) == 0
    assert read("adaptf_shadow_dropped_total", {}) == 0
    assert "adaptf_shadow_changed_total{" not in generate_latest(router.monitor.metrics).decode()


def fails(logmel: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no memory")


@pytest.mark.parametrize(
    ("says", "why"),
    [(fails, "RuntimeError: no memory"), (lambda logmel: torch.full((1, 10), torch.nan), "logits")],
)
def test_an_error_of_a_candidate_reaches_nobody_but_the_log_and_the_metrics(
    says, why, candidacies, begin, clips, caplog
):
    candidacies.name("adaptf-a", "2", of_a(says))
    with caplog.at_level(logging.INFO, "adaptf.router"):
        router = begin()
        assert router.predict(None, clips(2)).scene.tolist() == ["tram"]
        until(lambda: of_device_a(router)["errors"] == 2)
    assert of_device_a(router)["clips"] == 0
    (first, _) = [line for line in lines(caplog) if line["level"] == "ERROR"]
    assert why in first["message"] and first["version"] == "adaptf-a/2"


def test_clips_that_find_no_place_are_dropped_and_no_answer_waits(candidacies, begin, clips):
    release = threading.Event()
    candidacies.name("adaptf-a", "2", of_a(lambda logmel: torch.ones(1, 10) * release.wait(LIMIT_SECONDS)))
    router = begin()
    for _ in range(2):
        router.predict(None, clips(30))
    assert 60 - 34 <= router.shadow.dropped <= 60 - 32  # one or two are in hand
    release.set()
    until(lambda: of_device_a(router)["clips"] == 60 - router.shadow.dropped)


def test_only_a_share_of_the_clips_is_taken(candidacies, begin, clips):
    candidacies.name("adaptf-a", "2", of_a("tram"))
    router = begin(share=0.25)
    for _ in range(10):
        router.predict(None, clips(40))
        time.sleep(0.02)
    taken = [0]

    def has_settled() -> bool:
        taken.append(of_device_a(router)["clips"] + router.shadow.dropped)
        time.sleep(0.1)
        return taken[-1] == taken[-2] > 0

    until(has_settled)
    assert 60 < taken[-1] < 140  # of 400


def test_a_candidate_takes_no_more_of_a_core_than_it_may(candidacies, begin, clips):
    taken = []

    def slow(logmel: torch.Tensor) -> torch.Tensor:
        taken.append(time.monotonic())
        time.sleep(0.02)
        return torch.ones(1, 10)

    candidacies.name("adaptf-a", "2", of_a(slow))
    router = begin(core_share=0.2)
    router.predict(None, clips(5))
    until(lambda: of_device_a(router)["clips"] == 5)
    assert taken[-1] - taken[0] >= 4 * 0.02 / 0.2


def test_counts_start_anew_where_one_of_the_versions_changes(candidacies, begin, clips, follower, caplog):
    candidacies.name("adaptf-a", "2", of_a("tram"), "two")
    with caplog.at_level(logging.INFO, "adaptf.router"):
        router = begin()
        router.predict(None, clips(2))
        until(lambda: of_device_a(router)["clips"] == 2)
        models = {**follower.bundle.models, "a": saying("adaptf-a/4", "bus")}
        follower.bundle = bundle_of(**models)
        assert of_device_a(router)["clips"] == 0
        router.predict(None, clips(1))
        until(lambda: of_device_a(router)["clips"] == 1)
        assert of_device_a(router)["production"] == "adaptf-a/4"
        candidacies.name("adaptf-a", "2", of_a("bus"), "registered again")
        until(lambda: of_device_a(router)["sha256"] == "registered again")
        assert of_device_a(router)["clips"] == 0
        until(lambda: len([line for line in lines(caplog) if line["message"] == "ended"]) == 2)
    first, second = [line for line in lines(caplog) if line["message"] == "ended"]
    assert (first["production"], first["clips"], first["agreed"]) == ("adaptf-a/1", 2, 2)
    assert (second["production"], second["clips"], second["agreed"]) == ("adaptf-a/4", 1, 0)


def test_a_clip_of_the_version_before_is_not_counted(candidacies, begin, follower):
    candidacies.name("adaptf-a", "2", of_a("tram"))
    router = begin()
    of_before, logits = saying("adaptf-a/0", "tram"), torch.ones(1, 10)
    router.shadow.heard("a", of_before, torch.zeros(1, 1, 64, 64), logits)
    router.shadow.heard("a", follower.bundle.models["a"], torch.zeros(1, 1, 64, 64), logits)
    until(lambda: of_device_a(router)["clips"] == 1)


def test_a_version_that_has_come_into_production_is_no_candidate_any_more(
    candidacies, begin, follower, clips
):
    candidacies.name("adaptf-a", "2", of_a("bus"), "two")
    router = begin()
    follower.bundle = bundle_of(
        a=saying("adaptf-a/2", "bus", "two"), unknown=follower.bundle.models["unknown"]
    )
    router.predict(None, clips(3))
    assert shadow_page(router.shadow)["devices"] == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shadow_share": 1.5}, "shadow_share is 1.5: it should be from 0 to 1"),
        ({"shadow_core_share": 0.0}, "shadow_core_share is 0: it should be above 0, up to 1"),
    ],
)
def test_a_share_that_is_none_keeps_the_server_from_starting(wrong, said):
    with pytest.raises(UserError, match=said):
        load_router(ServeConfig(**wrong))
