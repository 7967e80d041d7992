"""A router's bundle with other versions for some devices: which networks it has, and what does not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adaptf.errors import UserError
from adaptf.serving import with_versions as module
from adaptf.serving.bundle import read_bundle
from adaptf.serving.with_versions import with_versions


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Path]:
    """By name and number the bundles that the registry has."""
    bundles: dict[tuple[str, str], Path] = {}
    monkeypatch.setattr(module, "download_bundle", lambda name, number, folder: bundles[name, number])
    return bundles


def test_named_devices_are_answered_by_these_versions_and_the_others_as_before(
    registered: dict[tuple[str, str], Path], make_bundle: Callable[..., Path], bundle: Path, tmp_path: Path
) -> None:
    registered["adaptf-b", "5"] = make_bundle("unknown", network_of="a")
    registered["adaptf-new one", "1"] = make_bundle("unknown", network_of="b")
    before = read_bundle(bundle)
    now = read_bundle(
        with_versions(bundle, {"b": "adaptf-b/5", "new one": "adaptf-new one/1"}, tmp_path / "made")
    )
    assert {device: model.version for device, model in now.models.items()} == {
        "a": "adaptf-a/1",
        "b": "adaptf-b/5",
        "unknown": "adaptf-unknown/3",
        "new one": "adaptf-new one/1",
    }
    assert now.input_and_output() == before.input_and_output() and now.max_seconds == before.max_seconds
    log_mel = torch.randn(1, 1, 64, 64)
    for device, of in {"a": "a", "b": "a", "unknown": "unknown", "new one": "b"}.items():
        assert torch.equal(now.models[device].network(log_mel), before.models[of].network(log_mel))


def test_a_bundle_without_other_versions_is_taken_as_it_is(bundle: Path, tmp_path: Path) -> None:
    assert with_versions(bundle, {}, tmp_path) == bundle


UNFIT = {
    "another log-mel": (("unknown",), {"mel": {"bands": 64, "hop_samples": 400}}, "hop_samples 400, unlike"),
    "other scenes": (("unknown",), {"scenes": list("0123456789")}, r"scenes \['0', .*\], unlike this router"),
    "a router": (("b", "unknown"), {}, r"it is a router for \['b', 'unknown'\]"),
}


@pytest.mark.parametrize(("devices", "changed", "why"), UNFIT.values(), ids=UNFIT.keys())
def test_a_version_that_does_not_fit_is_named_with_its_device_and_what_to_do(
    devices: tuple[str, ...],
    changed: dict[str, object],
    why: str,
    registered: dict[tuple[str, str], Path],
    make_bundle: Callable[..., Path],
    bundle: Path,
    tmp_path: Path,
) -> None:
    registered["adaptf-b", "5"] = make_bundle(*devices, **changed)
    wanted = rf"^adaptf-b/5, which is in production for device 'b', cannot answer: .*{why}.* --model_uri"
    with pytest.raises(UserError, match=wanted):
        with_versions(bundle, {"b": "adaptf-b/5"}, tmp_path / "made")
