"""Following a registry: what is taken up, what is not, and what is said about it."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adaptf.errors import UserError
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.serving.bundle import bundle_hash, read_bundle, write_sums
from adaptf.serving.kept import KeptVersions
from adaptf.serving.live import Follower
from adaptf.tracking.production import Promoted

CALIBRATION = StreamCalibration(factor=1.0, dependence=0.5, threshold=0.5)


class FakeRegistry:
    """Bundles by model and version, and which are in production;
    a bundle may be an error that its download raises."""

    def __init__(self) -> None:
        self.bundles: dict[str, Path | Exception] = {}
        self.production: dict[str, Promoted] = {}
        self.error: Exception | None = None
        self.downloads: list[str] = []

    def promote(self, name: str, version: str, bundle: Path | Exception, sha256: str = "") -> None:
        self.bundles[f"{name}/{version}"] = bundle
        self.production[name] = Promoted(version, sha256)

    def in_production(self) -> dict[str, Promoted]:
        if self.error:
            raise self.error
        return dict(self.production)

    def download(self, name: str, version: str, folder: Path) -> Path:
        self.downloads.append(f"{name}/{version}")
        bundle = self.bundles[f"{name}/{version}"]
        if isinstance(bundle, Exception):
            raise bundle
        return Path(shutil.copytree(bundle, folder / "bundle"))


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def follower(registry, bundle) -> Follower:
    return Follower(
        read_bundle(bundle),
        check_seconds=10,
        in_production=registry.in_production,
        download=registry.download,
    )


@pytest.fixture(scope="module")
def of_a(make_bundle) -> Path:
    """A device's own model."""
    return make_bundle("unknown", network_of="a", stream=CALIBRATION)


@pytest.fixture
def said(caplog) -> list[dict[str, str]]:
    """What was logged, growing."""
    lines: list[dict[str, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    logger = logging.getLogger("adaptf.router")
    with caplog.at_level(logging.INFO, "adaptf.router"):
        logger.addHandler(handler)
        yield lines
        logger.removeHandler(handler)


def messages(said: list[dict[str, str]]) -> list[str]:
    return [line.get("message", "") for line in said]


def versions(follower: Follower) -> dict[str, str]:
    return {device: model.version for device, model in follower.bundle.models.items()}


def test_a_promoted_version_is_taken_up_and_a_rollback_too(follower, registry, of_a, bundle):
    before = follower.bundle
    for version in ("5", "4"):
        registry.promote("adaptf-b", version, of_a)
        follower.check()
        assert versions(follower) == {
            "a": "adaptf-a/1",
            "b": f"adaptf-b/{version}",
            "unknown": "adaptf-unknown/3",
        }
    assert follower.bundle.models["b"].network.form == "OpenVINO"
    assert follower.bundle.models["b"].stream == CALIBRATION
    assert before.models["b"].version == "adaptf-b/2", "a request that began before would mix versions"


def test_a_version_that_serves_already_is_not_fetched(follower, registry, of_a):
    registry.promote("adaptf-a", "1", of_a)
    follower.check()
    registry.promote("adaptf-b", "7", of_a)
    follower.check()
    follower.check()
    assert registry.downloads == ["adaptf-b/7"]


def test_a_version_that_was_registered_again_under_its_number_is_taken_up(
    follower, registry, of_a, make_bundle
):
    registry.promote("adaptf-b", "8", of_a, "one")
    registry.promote("adaptf-unknown", "9", make_bundle("unknown", clip_samples=31999), "one")
    follower.check()
    registry.promote("adaptf-b", "8", of_a, "another")
    registry.promote("adaptf-unknown", "9", of_a, "another")
    follower.check()
    follower.check()
    assert registry.downloads == ["adaptf-b/8", "adaptf-unknown/9"] * 2
    assert versions(follower) == {"a": "adaptf-a/1", "b": "adaptf-b/8", "unknown": "adaptf-unknown/9"}


def test_a_new_device_and_another_general_model_are_taken_up(follower, registry, of_a):
    registry.promote("adaptf-s1", "1", of_a)
    registry.promote("adaptf-unknown", "9", of_a)
    registry.promote("adaptf-router", "2", of_a)
    follower.check()
    assert versions(follower) == versions(follower) | {"s1": "adaptf-s1/1", "unknown": "adaptf-unknown/9"}
    assert "router" not in versions(follower)
    assert follower.bundle.device_used("s1") == "s1"


def without_network(folder: Path) -> Path:
    (folder / "unknown.pt2").write_bytes(b"no network")
    write_sums(folder)
    return folder


BROKEN = {
    "damaged file": (lambda make: without_network(make("unknown")), "is no complete .pt2 file"),
    "other scenes": (
        lambda make: make("unknown", scenes=[f"scene {n}" for n in range(10)]),
        "it has scenes ['scene 0'",
    ),
    "other features": (
        lambda make: make("unknown", mel={"bands": 64, "preemphasis": 0.9}),
        "it has preemphasis 0.9",
    ),
    "other length": (lambda make: make("unknown", clip_samples=31999), "it has clip_samples 31999"),
    "a router": (
        lambda make: make("a", "unknown"),
        "it is a router for ['a', 'unknown'], not the model of one device",
    ),
}


@pytest.mark.parametrize(("broken", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_a_version_that_does_not_fit_changes_nothing_and_is_not_tried_at_every_check(
    broken, why, follower, registry, make_bundle, of_a, said
):
    registry.promote("adaptf-b", "8", broken(make_bundle))
    for _ in range(3):
        follower.check()
    assert versions(follower)["b"] == "adaptf-b/2"
    assert follower.notes["b"].startswith("adaptf-b/8 cannot be taken up, adaptf-b/2 keeps answering: ")
    assert why in follower.notes["b"]
    assert registry.downloads == ["adaptf-b/8"]
    assert [line["level"] for line in said if line.get("device") == "b"] == ["WARNING"]
    registry.promote("adaptf-b", "9", of_a)
    follower.check()
    assert versions(follower)["b"] == "adaptf-b/9"
    assert "b" not in follower.notes and not follower.failures


def test_one_broken_version_does_not_hold_up_the_others(follower, registry, of_a, make_bundle):
    registry.promote("adaptf-a", "8", make_bundle("unknown", scenes=list("abcdefghij")))
    registry.promote("adaptf-b", "8", of_a)
    follower.check()
    assert versions(follower)["a"] == "adaptf-a/1"
    assert versions(follower)["b"] == "adaptf-b/8"


def test_a_download_that_fails_is_tried_again_with_growing_waits(follower, registry, of_a, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    registry.promote("adaptf-b", "8", UserError("the store is away"))
    attempts = []
    for seconds in range(0, 200, 5):
        clock[0] = float(seconds)
        before = len(registry.downloads)
        follower.check()
        attempts += [seconds] * (len(registry.downloads) - before)
    assert attempts == [0, 10, 30, 70, 150]
    assert "adaptf-b/2 keeps answering: UserError: the store is away" in follower.notes["b"]
    registry.promote("adaptf-b", "8", of_a)
    clock[0] = 400.0
    follower.check()
    assert versions(follower)["b"] == "adaptf-b/8" and "b" not in follower.notes


def test_another_version_is_not_kept_waiting_by_one_that_failed(follower, registry, of_a):
    registry.promote("adaptf-b", "8", UserError("the store is away"))
    follower.check()
    registry.promote("adaptf-b", "9", of_a)
    follower.check()
    assert versions(follower)["b"] == "adaptf-b/9"


def test_a_registry_that_does_not_answer_is_mentioned_once(follower, registry, said):
    follower.check()
    before = len(said)
    for number in range(3):
        registry.error = OSError(f"http://me:secret@host: connection {number} refused")
        follower.check()
    assert follower.problem == "OSError: http://me@host: connection 2 refused"
    assert not any("secret" in line["message"] for line in said[before:])
    assert follower.failed["registry"] == 3
    registry.error = None
    follower.check()
    assert [line["message"][:27] for line in said[before:]] == [
        "the registry does not answe",
        "the registry answers again",
    ]


def test_a_device_withdrawn_from_production_keeps_its_model(follower, registry, of_a, said):
    registry.promote("adaptf-b", "8", of_a)
    follower.check()
    del registry.production["adaptf-b"]
    follower.check()
    follower.check()
    assert versions(follower)["b"] == "adaptf-b/8"
    assert [line["message"] for line in said if line.get("device") == "b"][1:] == [
        "no version is in production, adaptf-b/8 keeps answering"
    ]


@contextmanager
def following(bundle: Path, registry: FakeRegistry, check_seconds: float) -> Iterator[Follower]:
    """A follower that has started, until the context ends."""
    follower = Follower(
        read_bundle(bundle),
        check_seconds=check_seconds,
        in_production=registry.in_production,
        download=registry.download,
    )
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()


def version_of_b_within(follower: Follower, seconds: float, *, wanted: str) -> str:
    """Which one it is when it is the wanted one, or the time is over."""
    end = time.monotonic() + seconds
    while versions(follower)["b"] != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return versions(follower)["b"]


def test_the_first_check_is_over_when_the_follower_has_started(bundle, registry, of_a):
    registry.promote("adaptf-b", "8", of_a)
    with following(bundle, registry, check_seconds=0.1) as follower:
        assert versions(follower)["b"] == "adaptf-b/8"
        registry.promote("adaptf-b", "9", of_a)
        assert version_of_b_within(follower, 30, wanted="adaptf-b/9") == "adaptf-b/9"
        assert follower.is_alive()


def test_a_look_that_is_asked_for_does_not_wait_for_its_time(bundle, registry, of_a):
    with following(bundle, registry, check_seconds=3600) as follower:
        registry.promote("adaptf-b", "9", of_a)
        follower.look_now()
        assert version_of_b_within(follower, 30, wanted="adaptf-b/9") == "adaptf-b/9"


@pytest.fixture
def kept(tmp_path) -> KeptVersions:
    return KeptVersions(tmp_path / "kept")


@pytest.fixture
def start(registry, bundle, kept) -> Callable[[], Follower]:
    """A follower as after a start, which has looked at the registry once."""

    def started() -> Follower:
        follower = Follower(
            read_bundle(bundle), check_seconds=10, in_production=registry.in_production,
            download=registry.download, router="adaptf-router/1", kept=kept,
        )  # fmt: skip
        follower.check()
        return follower

    return started


def test_after_a_start_without_the_registry_the_versions_of_before_answer_until_it_is_back(
    start, registry, of_a, said
):
    registry.promote("adaptf-b", "8", of_a, bundle_hash(of_a))
    registry.promote("adaptf-c", "1", of_a, bundle_hash(of_a))
    start()
    registry.error = OSError("away")
    again = start()
    assert versions(again) == versions(again) | {"a": "adaptf-a/1", "b": "adaptf-b/8", "c": "adaptf-c/1"}
    assert {name: one.version for name, one in again.from_kept.items()} == {"adaptf-b": "8", "adaptf-c": "1"}
    assert "adaptf-b/8 comes from its copy on disk: UserError: OSError: away" in messages(said)
    registry.error = None
    registry.promote("adaptf-b", "9", of_a)
    again.check()
    assert versions(again)["b"] == "adaptf-b/9" and not again.from_kept


def test_files_that_are_away_while_the_registry_answers_come_from_the_disk(start, registry, of_a):
    registry.promote("adaptf-b", "8", of_a, bundle_hash(of_a))
    start()
    registry.promote("adaptf-b", "8", OSError("no artifacts"), bundle_hash(of_a))
    assert versions(start())["b"] == "adaptf-b/8"
    for version, sha256 in (("9", bundle_hash(of_a)), ("8", "another")):
        registry.promote("adaptf-b", version, OSError("no artifacts"), sha256)
        assert versions(start())["b"] == "adaptf-b/2", "the copy is of another version"


def test_a_copy_is_forgotten_once_another_version_answers(start, registry, of_a, kept):
    registry.promote("adaptf-b", "8", of_a, bundle_hash(of_a))
    start()
    registry.promote("adaptf-b", "2", of_a)  # which is in the router
    start()
    registry.error = OSError("away")
    assert versions(start())["b"] == "adaptf-b/2"
    assert kept.versions() == {}


def test_a_copy_that_was_damaged_is_not_taken_up_and_a_disk_that_is_full_harms_nobody(
    start, registry, of_a, kept, monkeypatch, said
):
    registry.promote("adaptf-b", "8", of_a, bundle_hash(of_a))
    start()
    (kept.bundle("adaptf-b") / "router.json").write_text("{}")
    registry.error = OSError("away")
    assert versions(start())["b"] == "adaptf-b/2"
    registry.error = None
    monkeypatch.setattr(shutil, "copytree", lambda *_, **__: exec('raise OSError("no space left")'))
    registry.promote("adaptf-b", "9", of_a)
    monkeypatch.setattr(registry, "download", lambda name, version, folder: of_a)
    follower = start()
    assert versions(follower)["b"] == "adaptf-b/9"
    assert "adaptf-b/9 is not kept: OSError: no space left" in messages(said)


def test_a_copy_that_was_not_finished_does_not_count(kept, of_a, monkeypatch):
    kept.keep("adaptf-b", "8", of_a)
    monkeypatch.setattr("adaptf.serving.kept._copy", lambda *_: exec('raise OSError("no space left")'))
    kept.keep("adaptf-b", "9", of_a)
    assert kept.versions()["adaptf-b"].version == "8" and read_bundle(kept.bundle("adaptf-b"))
    assert len([path for path in kept.folder.iterdir() if path.is_dir()]) == 1


def test_a_folder_that_is_not_ours_stays_and_an_index_that_is_none_counts_for_nothing(
    kept, of_a, start, registry
):
    (kept.folder / "photos").mkdir()
    kept.keep("adaptf-b", "8", of_a)
    kept.keep("adaptf-b", "9", of_a)
    kept.forget_others(())
    assert [path.name for path in kept.folder.iterdir() if path.is_dir()] == ["photos"]
    registry.error = OSError("away")
    for index in (
        "[1]",
        '{"adaptf-b": {}}',
        '{"adaptf-b": 1}',
        '{"adaptf-b": {"version": "8", "folder": "gone"}}',
    ):
        (kept.folder / "kept.json").write_text(index)
        assert versions(start())["b"] == "adaptf-b/2"


def test_another_router_in_production_is_told_once(start, registry, bundle, said):
    registry.production["adaptf-router"] = Promoted("2", "")
    follower = start()
    follower.check()
    told = "adaptf-router/2 is in production, adaptf-router/1 answers until a restart"
    assert follower.notes["router"] == told
    assert messages(said).count(told) == 1
    registry.production["adaptf-router"] = Promoted("1", "")
    follower.check()
    assert "router" not in follower.notes


def test_the_model_of_one_device_does_not_follow_the_registry(make_bundle, registry):
    own = read_bundle(make_bundle("unknown", network_of="a"))
    own = replace(own, models={"unknown": replace(own.models["unknown"], version="adaptf-a")})
    with pytest.raises(
        UserError, match="live: adaptf-a answers for 'unknown' here, in the registry it is adaptf-unknown"
    ):
        Follower(
            own, check_seconds=1, in_production=registry.in_production, download=registry.download
        ).start()


def test_a_registry_that_hangs_keeps_no_router_from_starting(bundle, said):
    answered = threading.Event()
    follower = Follower(
        read_bundle(bundle),
        check_seconds=0.1,
        in_production=lambda: {"late": Promoted(str(answered.wait(60)), "")},
    )
    start = time.monotonic()
    follower.start(limit_seconds=0.2)
    assert time.monotonic() - start < 5
    assert "no answer of the registry in 0.2 s" in said[-1]["message"]
    follower.stop()
    answered.set()
