"""`compare`: runs, runs over seeds, versions and checkpoint files on the same clips."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

from adaptf.compression.int8 import save_int8
from adaptf.compression.quantize import quantize_int8
from adaptf.errors import UserError
from adaptf.mlproject.compare import COMPARE, CompareConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import execute
from adaptf.serving import router_model
from adaptf.serving.bundle import write_bundle
from adaptf.tracking import registry
from adaptf.tracking.several import SEEDS
from adaptf.tracking.tags import DATA_DIGEST

SCENES = ("airport", "bus")


@dataclass(frozen=True)
class Runs:
    """Ids of `train` runs."""

    over_seeds: str
    first: str
    second: str


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig) -> Runs:
    parent = execute(
        TRAIN, replace(train_config, optim=replace(train_config.optim, max_epochs=1), seeds=(0, 1))
    )
    return Runs(parent, *SEEDS.children(mlflow.get_run(parent)).values())


@pytest.fixture(scope="module")
def compared(trained: Runs, train_config: TrainConfig) -> str:
    return execute(COMPARE, config_of(train_config, trained.first, trained.second))


@pytest.fixture(scope="module")
def make_version(trained: Runs, folder: Path) -> Callable[..., str]:
    """A registered version: with networks where scenes are given, else its entry in the registry alone."""

    def make(
        name: str, device: str | None, quantize_run: str, scenes: tuple[str, ...] = (), samples: int = 32000
    ) -> str:
        tags = {"adaptf.quantize_run": quantize_run} | ({"adaptf.device": device} if device else {})
        if scenes:
            file = folder / f"{name}.pt2"
            torch.manual_seed(0)
            network = TfSepNet(classes=len(scenes), width=8, depth=4)
            save_int8(quantize_int8(network, [torch.randn(4, 1, 64, 64)]).program(), file)
            bundle = folder / f"bundle {name}"
            values = {"scenes": scenes, "mel": {"bands": 64}, "sample_rate": 32000, "clip_samples": samples}
            write_bundle(bundle, {"unknown": (file, f"{name}/1")}, max_seconds=60, **values)
            with mlflow.start_run(quantize_run):
                uri = router_model.log_router(bundle, name)
            return f"models:/{name}/{registry.register(uri, name, tags=tags, description='')}"
        client = mlflow.MlflowClient()
        client.create_registered_model(name)
        return f"models:/{name}/{client.create_model_version(name, 'nowhere', tags=tags).version}"

    return make


@pytest.fixture(scope="module")
def version(make_version: Callable[..., str], trained: Runs) -> str:
    return make_version("adaptf-a", "a", trained.first, SCENES)


def config_of(train_config: TrainConfig, *values: str, **changed: object) -> CompareConfig:
    config = CompareConfig(",".join(values), prepare_run=train_config.prepare_run, accelerator="cpu")
    return replace(config, **changed)  # type: ignore[arg-type]


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def table_of(run_id: str, name: str) -> pd.DataFrame:
    return pd.read_csv(artifact(run_id, f"tables/{name}.csv"), index_col=0)


def files_of(run_id: str) -> set[str]:
    folder = artifact(run_id, "")
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_two_runs_are_held_against_each_other_on_the_test_clips(compared: str, trained: Runs) -> None:
    assert files_of(compared) == {
        "config.yaml", "compare.html", "tables.txt", "accuracy.png", "changes.png",
        "tables/accuracies.csv", "tables/differences.csv", "tables/scenes.csv", "tables/devices.csv",
        "tables/changed clips.csv", "tables/predictions 1.parquet", "tables/predictions 2.parquet",
    }  # fmt: skip
    run = mlflow.get_run(compared)
    assert run.data.tags["adaptf.upstream.runs"] == f"{trained.first},{trained.second}"
    assert run.data.tags["adaptf.compared"] == "train seed 0, train seed 1"
    assert run.info.run_name == "compare train seed 0, train seed 1"
    metrics = run.data.metrics
    assert metrics["difference/2"] == pytest.approx(metrics["test/accuracy/2"] - metrics["test/accuracy/1"])
    assert list(table_of(compared, "differences").index) == ["train seed 1 - train seed 0"]


def test_tables_agree_with_the_clips_that_change(compared: str) -> None:
    first, second = (
        pd.read_parquet(artifact(compared, f"tables/predictions {place}.parquet")) for place in (1, 2)
    )
    changes = table_of(compared, "changed clips")
    assert set(changes.index) == set(first["filename"][first["predicted"] != second["predicted"]])
    for name in ("scenes", "devices"):
        table = table_of(compared, name)
        assert table["clips"].sum() == len(first)
        assert table[["gained", "lost", "still wrong"]].sum().sum() == len(changes)
    scenes = table_of(compared, "scenes")
    assert scenes["difference"].to_numpy() == pytest.approx(
        100 * (scenes["gained"] - scenes["lost"]) / scenes["clips"]
    )


def test_page_note_and_text_tell_the_same(compared: str) -> None:
    note = mlflow.get_run(compared).data.tags["mlflow.note.content"]
    text, page = artifact(compared, "tables.txt").read_text(), artifact(compared, "compare.html").read_text()
    for told in (note, text, page):
        assert "train seed 1 against train seed 0" in told and "Holm, 1979" in told and "airport" in told
    assert "12 test clips of" in text


def test_validation_clips_are_said_to_flatter(train_config: TrainConfig, trained: Runs) -> None:
    run_id = execute(COMPARE, config_of(train_config, trained.first, trained.second, split="validation"))
    assert "Checkpoints were chosen by these clips" in artifact(run_id, "tables.txt").read_text()
    assert "validation/accuracy/2" in mlflow.get_run(run_id).data.metrics


def test_three_models_are_held_against_the_first(
    train_config: TrainConfig, trained: Runs, folder: Path
) -> None:
    file = mlflow.artifacts.download_artifacts(
        run_id=trained.first, artifact_path="checkpoints/best.ckpt", dst_path=str(folder)
    )
    run_id = execute(COMPARE, config_of(train_config, file, trained.first, trained.second))
    assert len(table_of(run_id, "differences")) == 3
    metrics = mlflow.get_run(run_id).data.metrics
    assert metrics["changed/2"] == 0 and metrics["difference/2"] == 0, (
        "the file is the first run's checkpoint"
    )
    assert {"changes.png", "changes 3.png", "tables/scenes 3.csv", "tables/changed clips 3.csv"} <= files_of(
        run_id
    )


def test_a_run_over_seeds_stands_for_all_of_its_runs(train_config: TrainConfig, trained: Runs) -> None:
    other = execute(TRAIN, replace(train_config, seeds=(2, 3)))
    run_id = execute(COMPARE, config_of(train_config, trained.over_seeds, other))
    assert list(table_of(run_id, "accuracies")["runs"]) == [2, 2]
    changes = table_of(run_id, "changed clips")
    assert "pair" in changes.columns or changes.empty
    assert mlflow.get_run(run_id).data.tags["adaptf.upstream.runs"].count(",") == 3


def test_a_version_is_compared_on_the_clips_of_its_device(
    train_config: TrainConfig, trained: Runs, version: str
) -> None:
    run_id = execute(COMPARE, config_of(train_config, version, trained.second))
    assert (
        list(table_of(run_id, "devices").index) == ["a"]
        and table_of(run_id, "accuracies").index[0] == "adaptf-a/1"
    )
    assert mlflow.get_run(run_id).data.tags["adaptf.upstream.runs"] == f"{trained.first},{trained.second}"


def test_a_model_for_unknown_devices_is_compared_where_no_device_has_its_own(
    train_config: TrainConfig, trained: Runs, make_version: Callable[..., str]
) -> None:
    with mlflow.start_run() as quantized:
        mlflow.log_metrics({f"INT8 accuracy/{device}": 0.5 for device in ("a", "b", "unknown")})
    run_id = execute(
        COMPARE,
        config_of(
            train_config,
            make_version("adaptf-unknown", "unknown", quantized.info.run_id, SCENES),
            trained.first,
        ),
    )
    assert list(table_of(run_id, "devices").index) == ["c"]


def test_models_of_different_devices_are_refused(
    train_config: TrainConfig, trained: Runs, version: str, make_version: Callable[..., str]
) -> None:
    other = make_version("adaptf-b", "b", trained.first)
    with pytest.raises(UserError, match=r"models of different devices .* adaptf-a/1 of a, adaptf-b/1 of b"):
        execute(COMPARE, config_of(train_config, version, other))


def test_a_version_that_tells_other_scenes_apart_is_refused(
    train_config: TrainConfig, trained: Runs, make_version: Callable[..., str]
) -> None:
    other = make_version("adaptf-other", "a", trained.first, ("park", "tram"))
    with pytest.raises(UserError, match="adaptf-other/1 tells park, tram apart, the data has airport, bus"):
        execute(COMPARE, config_of(train_config, other, trained.first))


def test_a_device_without_clips_is_refused(
    train_config: TrainConfig, trained: Runs, make_version: Callable[..., str]
) -> None:
    nobody = make_version("adaptf-nobody", "nobody", trained.first)
    with pytest.raises(
        UserError, match="adaptf-nobody/1 answers for clips of device nobody: there is no test clip of those"
    ):
        execute(COMPARE, config_of(train_config, nobody, trained.first))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["none"], "runs is none: two different models and more are needed"),
        (["first"], "two different models and more are needed"),
        (["first", "first"], "two different models and more are needed"),
        (["over_seeds", "first"], r"as many others only: train .* has 2, train seed 0 has 1"),
        (["first", "nobody"], "there is no run 'nobody'"),
        (["first", "models:/adaptf-a/99"], "there is no models:/adaptf-a/99"),
        (["first", "models:/adaptf-a"], "'models:/adaptf-a' is no version"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    values: list[str], message: str, train_config: TrainConfig, trained: Runs, version: str
) -> None:
    given = [getattr(trained, value, value) for value in values]
    with pytest.raises(UserError, match=message):
        execute(COMPARE, config_of(train_config, *given))


def test_a_version_without_a_device_is_refused(
    train_config: TrainConfig, trained: Runs, make_version: Callable[..., str]
) -> None:
    with pytest.raises(UserError, match=r"strange version 1 has no tag adaptf\.device"):
        execute(COMPARE, config_of(train_config, make_version("strange", None, trained.first), trained.first))


def test_runs_on_other_data_are_refused(train_config: TrainConfig, trained: Runs, prepared: str) -> None:
    client = mlflow.MlflowClient()
    digest = mlflow.get_run(trained.second).data.tags[DATA_DIGEST]
    client.set_tag(trained.second, DATA_DIGEST, "another")
    try:
        with pytest.raises(UserError, match="learnt from other data"):
            execute(COMPARE, config_of(train_config, trained.first, trained.second))
    finally:
        client.set_tag(trained.second, DATA_DIGEST, digest)


def test_an_id_of_digits_stays_text() -> None:
    ids = "00000000000000000000000000000012,1234567890e234567890123456789012,models:/adaptf-s1@production"
    assert parse(CompareConfig, stage="compare", arguments=["--runs", ids]).runs == ids
