"""Whether a version fits the router that it will stand in,
and whether a router holds the files that it names."""

import json
import shutil
from pathlib import Path

import pytest

from adaptf.errors import UserError
from adaptf.promotion import gates
from adaptf.promotion.shadowed import ShadowGate
from adaptf.serving import logged_model
from adaptf.tracking.stage_run import StageRun

ROUTER = "adaptf-router"
TOGETHER = {"adaptf-a": "1", ROUTER: "7"}


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Path]:
    """Bundles by registered model and version; each can be downloaded once."""
    there: dict[tuple[str, str], Path] = {}

    def download(name: str, version: str, folder: Path) -> Path:
        if (name, version) not in there:
            raise UserError(f"{name} version {version} has no bundle, or not any more")
        return Path(shutil.copytree(there.pop((name, version)), folder / "bundle"))

    monkeypatch.setattr(logged_model, "download_bundle", download)
    monkeypatch.setattr(gates, "tags_of", lambda name, version: {})
    return there


@pytest.fixture
def run(tmp_path: Path) -> StageRun:
    return StageRun(run_id="", name="promote", folder=tmp_path / "scratch")


def test_a_models_version_in_a_router_is_compared_with_that_in_the_router_in_production(monkeypatch):
    held = {"1": {"adaptf-a": "1", "adaptf-b": "1"}, "2": {"adaptf-a": "3", "adaptf-c": "1"}}
    monkeypatch.setattr(gates, "versions_held", lambda router, run: held[router])
    run = StageRun(run_id="", name="promote", folder=Path("none"))
    assert gates.models_of("adaptf-router", "2", "1", run) == [
        ("adaptf-a", "3", "1"),
        ("adaptf-c", "1", None),
    ]
    assert gates.models_of("adaptf-a", "3", "1", run) == [("adaptf-a", "3", "1")]


@pytest.mark.parametrize(("wanted", "seen"), [(TOGETHER, None), ({"adaptf-a": "1"}, "7"), (TOGETHER, "6")])
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"mel": {"bands": 64, "hop_samples": 500}}, None),  # 500 is what it is by default
        ({"mel": {"bands": 64, "hop_samples": 400}}, "its hop_samples is 400, there it is 500"),
        ({"clip_samples": 16000}, "its clip_samples is 16000, there it is 32000"),
        ({"scenes": ["bus"]}, r"its scenes is \['bus'\], there it is \['airport'"),
        ({"max_seconds": 10}, None),
    ],
)
def test_a_version_has_to_fit_the_router_that_it_will_stand_in(
    changed, problem, wanted, seen, stored, run, make_bundle, bundle
):
    stored |= {("adaptf-a", "1"): make_bundle("unknown", **changed), (ROUTER, "7"): bundle}
    found = gates.misfits(wanted, {ROUTER: seen}, run)
    assert len(found) == (1 if problem else 0)
    for text in found:
        with pytest.raises(
            UserError, match=rf"adaptf-a version 1 can't stand in adaptf-router version 7: {problem}"
        ):
            raise UserError(text)


def test_without_a_router_any_version_fits_and_with_one_that_is_gone_none(stored, run, make_bundle):
    stored[("adaptf-a", "1")] = make_bundle("unknown", clip_samples=16000)
    assert gates.misfits({"adaptf-a": "1"}, {ROUTER: None}, run) == []
    (problem,) = gates.misfits({"adaptf-a": "1"}, {ROUTER: "6"}, run)
    assert problem.startswith(
        "whether adaptf-a can stand in adaptf-router version 6 is not known: adaptf-router version 6 has"
    )


def test_the_files_of_a_router_are_those_of_the_versions_that_it_names(stored, run, make_bundle):
    stored |= {
        (f"adaptf-{name}", number): make_bundle("unknown", network_of=name)
        for name, number in (("a", "1"), ("b", "2"))
    }
    stored |= {
        ("adaptf-unknown", "3"): make_bundle("unknown"),
        (ROUTER, "7"): make_bundle("a", "b", "unknown"),
    }
    assert gates.misfits(TOGETHER, {ROUTER: None}, run) == gates.strange_files("7", run) == []
    assert list(gates.versions_held("7", run)) == ["adaptf-a", "adaptf-b", "adaptf-unknown"]
    assert stored == {}


def test_a_router_with_a_file_that_is_not_the_versions_own_is_told(stored, run, make_bundle):
    other_form = make_bundle("unknown", network_of="a")
    (other_form / "unknown.bin").write_bytes(b"other weights")
    stored |= {("adaptf-a", "1"): other_form, ("adaptf-b", "2"): make_bundle("unknown", network_of="a")}
    stored[(ROUTER, "7")] = make_bundle("a", "b", "unknown")
    assert gates.strange_files("7", run) == [
        "adaptf-router version 7: a.bin is not the file of adaptf-a version 1, which it is said to be",
        "adaptf-router version 7: b.pt2 is not the file of adaptf-b version 2, which it is said to be",
        "adaptf-router version 7: b.npz is not the file of adaptf-b version 2, which it is said to be",
        "adaptf-router version 7: whether unknown.pt2 is the file of adaptf-unknown version 3 is not known: "
        "adaptf-unknown version 3 has no bundle, or not any more",
    ]


def test_a_router_with_a_strange_file_is_refused(stored, run, make_bundle, monkeypatch):
    stored[("adaptf-unknown", "3")] = make_bundle("unknown", network_of="a")
    stored[(ROUTER, "7")] = make_bundle("unknown")
    verdict = gates.judge(
        {ROUTER: "7"}, run, tolerable_loss=0.01, tolerable_logit_error=0.15, shadow=ShadowGate([], 0, 0.0)
    )
    assert [
        text for text in verdict.refusals if "unknown.pt2 is not the file of adaptf-unknown version 3" in text
    ]


def test_a_manifest_that_lacks_something_is_told(stored, run, make_bundle, bundle):
    folder = make_bundle("unknown")
    manifest = json.loads((folder / "router.json").read_text())
    (folder / "router.json").write_text(json.dumps(manifest | {"mel": [64]}))
    stored |= {("adaptf-a", "1"): folder, (ROUTER, "7"): bundle}
    (problem,) = gates.misfits(TOGETHER, {ROUTER: None}, run)
    assert "adaptf-a version 1 has no complete router.json" in problem
