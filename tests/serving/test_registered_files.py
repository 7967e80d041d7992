"""What is served is what was registered, on a real store:
files that were changed, swapped, forged or registered again."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch

from adaptf.errors import UserError
from adaptf.promotion import gates
from adaptf.serving import logged_model, router_model
from adaptf.serving.bundle import SUMS, bundle_hash, read_bundle, write_sums
from adaptf.serving.live import Follower
from adaptf.tracking import production, registry
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE

NAME = "adaptf-a"
Register = Callable[..., str]


@pytest.fixture(scope="module")
def experiment(database: Path, tracked) -> Iterator[str]:
    with tracked(f"sqlite:///{database}"):
        yield mlflow.create_experiment("scenes", artifact_location=(database.parent / "artifacts").as_uri())


@pytest.fixture
def register(experiment: str) -> Iterator[Register]:
    """Registers a bundle as `register` does, and promotes it; gives the version's number."""

    def make(bundle: Path) -> str:
        with mlflow.start_run(experiment_id=experiment, tags={STAGE: "register"}):
            uri = router_model.log_router(bundle, NAME)
            if not bundle_hash(bundle):
                mlflow.delete_tag(f"{registry.BUNDLE_HASH}.")
        tags = {registry.BUNDLE_HASH: bundle_hash(bundle)} if bundle_hash(bundle) else {}
        version = registry.register(uri, NAME, tags=tags, description="")
        production.promote(NAME, version)
        return version

    yield make
    mlflow.MlflowClient().delete_registered_model(NAME)


@pytest.fixture
def own(make_bundle) -> Path:
    """A device's own model, with an OpenVINO form."""
    return make_bundle("unknown", network_of="a")


@pytest.fixture
def follower(bundle: Path) -> Follower:
    return Follower(read_bundle(bundle), check_seconds=10)


def stored(version: str) -> Path:
    """Where the store keeps the version's bundle."""
    model_id = mlflow.MlflowClient().get_model_version(NAME, version).source.removeprefix("models:/")
    location = mlflow.get_logged_model(model_id).artifact_location.removeprefix("file://")
    (manifest,) = Path(location).rglob("router.json")
    return manifest.parent


def flip_bytes(file: Path) -> None:
    """The lowest bit of eight."""
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 8):
        content[place] ^= 1
    file.write_bytes(content)


def refusals(version: str, folder: Path) -> list[str]:
    """Of a promotion."""
    return gates.routing_refusals(NAME, version, StageRun("", "promote", folder))


def without_hashes(bundle: Path) -> Path:
    """As it was before bundles had any."""
    (bundle / SUMS).unlink()
    return bundle


def test_flipped_bytes_are_found_at_load_at_promotion_and_by_a_router_that_follows(
    register, own, follower, tmp_path
):
    version = register(own)
    assert refusals(version, tmp_path / "before") == []
    flip_bytes(stored(version) / "unknown.bin")
    said = "unknown.bin of a bundle is not what was registered: put its files back as they were"
    with pytest.raises(ValueError, match=said):
        mlflow.pyfunc.load_model(f"models:/{NAME}/{version}")
    assert [said in problem for problem in refusals(version, tmp_path / "after")] == [True]
    follower.check()
    assert said in follower.notes["a"] and follower.bundle.models["a"].sha256 == ""


def test_another_bundle_in_the_place_of_the_registered_one_is_found(register, own, make_bundle, tmp_path):
    version = register(own)
    for file in make_bundle("unknown").iterdir():
        shutil.copy(file, stored(version))
    write_sums(stored(version))
    with pytest.raises(UserError, match="adaptf-a version 1: this is another bundle than the one"):
        logged_model.download_bundle(NAME, version, tmp_path)
    (stored(version) / SUMS).unlink()
    with pytest.raises(UserError, match="adaptf-a version 1: this is another bundle than the one"):
        logged_model.download_bundle(NAME, version, tmp_path)
    mlflow.MlflowClient().delete_model_version_tag(NAME, version, registry.BUNDLE_HASH)
    with pytest.raises(UserError, match="adaptf-a version 1: no run of `register` in this store says"):
        logged_model.download_bundle(NAME, version, tmp_path)


def test_a_version_registered_again_under_its_number_is_taken_up(register, own, follower, make_bundle, noise):
    assert register(own) == "1"
    follower.check()
    first = follower.bundle.models["a"]
    mlflow.MlflowClient().delete_registered_model(NAME)
    assert register(make_bundle("unknown", network_of="b")) == "1"
    follower.check()
    second = follower.bundle.models["a"]
    assert (first.version, second.version) == ("adaptf-a/1", "adaptf-a/1")
    heard = follower.bundle.log_mel(torch.from_numpy(noise(32000))[None])
    assert not torch.equal(first.network(heard), second.network(heard))
    follower.check()
    assert follower.bundle.models["a"] is second and not follower.notes.get("a")


def test_a_version_from_before_hashes_is_taken_with_a_warning(
    register, own, follower, tmp_path, caplog, monkeypatch
):
    version = register(without_hashes(own))
    monkeypatch.setattr("adaptf.serving.log_lines.LOGGER.propagate", True)
    follower.bundle = replace(follower.bundle, models={"unknown": follower.bundle.models["unknown"]})
    follower.check()
    assert follower.bundle.models["a"].version == f"adaptf-a/{version}"
    assert [
        line
        for line in caplog.messages
        if "nobody knows whether it was changed" in json.loads(line)["message"]
    ]
    assert refusals(version, tmp_path) == []


@pytest.mark.parametrize("with_hashes", [True, False])
def test_files_that_no_run_of_register_wrote_are_never_opened(
    with_hashes, register, own, make_bundle, follower, tmp_path, monkeypatch, experiment
):
    """Of a version that says all that a good one says, and lies about its files."""
    good = mlflow.MlflowClient().get_model_version(NAME, register(own))
    forged = Path(shutil.copytree(stored("1").parents[1], tmp_path / "forged"))
    (bundle,) = (manifest.parent for manifest in forged.rglob("router.json"))
    (bundle / "unknown.pt2").write_bytes(b"runs code")
    for form in (".xml", ".bin", ".npz"):
        (bundle / f"unknown{form}").unlink()
    if with_hashes:
        write_sums(bundle)
        tags = good.tags | {registry.BUNDLE_HASH: bundle_hash(bundle)}
    else:
        without_hashes(bundle)
        tags = {tag: value for tag, value in good.tags.items() if tag != registry.BUNDLE_HASH}
    client = mlflow.MlflowClient()
    client.create_model_version(NAME, source=forged.as_uri(), run_id=good.run_id, tags=tags)
    production.promote(NAME, "2")
    monkeypatch.setattr(torch.export, "load", lambda *given: pytest.fail("a .pt2 file was opened"))
    said = "no run of `register` in this store says that it wrote these files, and a .pt2 file can run code"
    assert [said in problem for problem in refusals("2", tmp_path)] == [True]
    follower.check()
    assert said in follower.notes["a"] and follower.bundle.models["a"].version == "adaptf-a/1"


def test_what_a_version_was_copied_from_is_told_by_its_files_alone(register, own, tmp_path, experiment):
    """Its source may have become another version since."""
    good = mlflow.MlflowClient().get_model_version(NAME, register(own))
    forged = Path(shutil.copytree(stored("1").parents[1], tmp_path / "forged"))
    (bundle,) = (manifest.parent for manifest in forged.rglob("router.json"))
    (bundle / "unknown.pt2").write_bytes(b"runs code")
    write_sums(bundle)
    client = mlflow.MlflowClient()
    for source in (forged.as_uri(), good.source):
        client.create_registered_model("adaptf-passing")
        client.create_model_version("adaptf-passing", source=source)
        if source != good.source:
            client.create_model_version(NAME, source="models:/adaptf-passing/1", run_id=good.run_id)
            client.delete_registered_model("adaptf-passing")
    logged_model.download_bundle("adaptf-passing", "1", tmp_path / "good")
    with pytest.raises(UserError, match="no run of `register` in this store says that it wrote these files"):
        logged_model.download_bundle(NAME, "2", tmp_path / "forged copy")
    client.delete_registered_model("adaptf-passing")
