"""Checkpoint files in the place of runs: what each field of each stage takes, and what becomes of it."""

import functools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from adaptf.errors import UserError
from adaptf.files import sha256_of
from adaptf.mlproject.compare import COMPARE, CompareConfig, check, checkpoints_digest
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.lineage import LineageConfig, lineage
from adaptf.mlproject.main import MainConfig
from adaptf.mlproject.main import check as check_main
from adaptf.mlproject.pretrain import PretrainConfig
from adaptf.mlproject.promote import PromoteConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.mlproject.sweep import SweepConfig, stage_settings
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import save_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.models.teachers.registry import SMALL_CNN
from adaptf.pipeline.artifacts import BEST
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import MelConfig, upstream_fields
from adaptf.pipeline.finetune_device import FINETUNE_DEVICE, FinetuneDeviceConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.pipeline.upstream import _resolved
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE

MEL = asdict(MelConfig(bands=64))
OURS = ModelDescription(
    kind=TFSEPNET, classes=("airport", "bus"), features=MEL, network={"width": 8, "depth": 4, "dropout": 0.1}
)
CONFIGS = (
    PretrainConfig, TrainConfig, TeacherConfig, DistillConfig, FinetuneConfig, FinetuneDeviceConfig,
    QuantizeConfig, EvaluateConfig, RegisterConfig, PromoteConfig, CompareConfig,
)  # fmt: skip
FIELDS = [(config, field.name) for config in CONFIGS for field in upstream_fields(config())]
TAKE_A_FILE = {"pretrain_run", "train_run", "distill_run", "finetune_run"}


def write(path: Path, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of ours with random weights."""
    torch.manual_seed(seed)
    return save_classifier(build_classifier(replace(OURS, **changes)), path, epoch=0)


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    """A folder with a model of device a and one for all others."""
    for seed, device in enumerate(("a", "unknown")):
        write(folder / "models" / f"{device}.ckpt", seed)
    return folder / "models"


@pytest.fixture
def no_runs(prepared: str) -> Any:
    """No run may begin."""
    before = number_of_runs()
    yield
    assert number_of_runs() == before


def number_of_runs() -> int:
    return len(mlflow.MlflowClient().search_runs([runs.experiment_id()]))


def mapping(**files: Path) -> str:
    return json.dumps({device: str(path) for device, path in files.items()})


def value_of(config: type, name: str, value: str) -> str:
    """What the stage makes of a field's value before it begins."""
    given = replace(config(), **{name: value})
    (field,) = (field for field in upstream_fields(given) if field.name == name)
    return _resolved(given, field)


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_takes_a_file_or_says_that_it_takes_runs(
    config: type, name: str, models: Path, no_runs: None
) -> None:
    path = str(models / "a.ckpt")
    if name in TAKE_A_FILE:
        assert value_of(config, name, path) == path
    else:
        with pytest.raises(
            UserError, match=f"{name} takes runs of '\\w+', by their ids or as 'latest', and no files"
        ):
            value_of(config, name, path)


@pytest.mark.parametrize("form", ["mapping", "folder"])
@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_takes_a_model_per_device_or_says_what_it_takes(
    config: type, name: str, form: str, models: Path, no_runs: None
) -> None:
    given = mapping(a=models / "a.ckpt", unknown=models / "unknown.ckpt")
    value = str(models) if form == "folder" else given
    if name == "finetune_run":
        assert value_of(config, name, value) == given
    else:
        with pytest.raises(
            UserError,
            match=(
                f"{name} takes (runs of .* and no files|a run of .*, for one model; .* stands for one per "
                "device)"
            ),
        ):
            value_of(config, name, value)


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_refuses_what_is_not_there_or_is_of_another_kind(
    config: type, name: str, models: Path, tmp_path: Path
) -> None:
    with mlflow.start_run(experiment_id=runs.experiment_id(), tags={STAGE: "elsewhere"}) as elsewhere:
        pass
    text, cut, plain = tmp_path / "clips.csv", tmp_path / "cut.ckpt", tmp_path / "plain.ckpt"
    text.write_text("filename,scene,device\n")
    cut.write_bytes((models / "a.ckpt").read_bytes()[:5000])
    torch.save({"weight": torch.ones(1)}, plain)
    wrong = {
        elsewhere.info.run_id: (
            f"run {elsewhere.info.run_id} is of stage 'elsewhere', a run of '\\w+' is needed"
        ),
        "0123456789abcdef": "there is no run '0123456789abcdef'",
        "": "there is no run ''",
        str(tmp_path / "nowhere.ckpt"): f"{name} takes .*nowhere.ckpt",
        f"{models / 'a.ckpt'},{models / 'unknown.ckpt'}": f"{name} takes .*a.ckpt,.*unknown.ckpt",
        str(text): "clips.csv: it was not written by torch.save|takes runs of",
        str(cut): "cut.ckpt: it is cut off or damaged|takes runs of",
        str(plain): "plain.ckpt is no checkpoint of a trainer: it has no 'state_dict'|takes runs of",
        str(tmp_path): f"models for cut, plain and none for 'unknown'|{name} takes",
        "{a: nowhere.ckpt, unknown: nowhere.ckpt}": (
            "files that are not there|takes runs of|stands for one per device"
        ),
    }
    before = number_of_runs()
    for value, message in wrong.items():
        with pytest.raises(UserError, match=message):
            value_of(config, name, value)
    assert number_of_runs() == before


def test_none_is_refused_where_a_run_is_needed(prepared: str, no_runs: None) -> None:
    for config, name in FIELDS:
        optional = {"pretrain_run", "register_run", "evaluate_run"} | (
            set() if config is DistillConfig else {"teacher_runs"}
        )
        if name in optional or (config is EvaluateConfig and name != "prepare_run"):
            assert value_of(config, name, "none") == "none"
        else:
            with pytest.raises(UserError, match="there is no run 'none'"):
                value_of(config, name, "none")


@pytest.mark.parametrize(
    ("config", "name"),
    [(TrainConfig, "pretrain_run"), (FinetuneConfig, "teacher_runs"), (FinetuneDeviceConfig, "teacher_runs")],
)
def test_where_there_is_no_run_a_stage_that_can_do_without_says_so(
    config: type, name: str, prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "finished_runs", lambda stage, tags: [])
    with pytest.raises(UserError, match=rf"no run of stage '\w+' has finished.* or do without: {name}=none"):
        value_of(config, name, "latest")


def test_the_command_line_takes_a_mapping(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    given = "{a: a.ckpt, unknown: unknown.ckpt}"
    config = parse(QuantizeConfig, stage="quantize", arguments=["--finetune_run", given])
    assert config.finetune_run == given
    assert json.loads(value_of(QuantizeConfig, "finetune_run", given))["a"] == str(models / "a.ckpt")


# What the stages make of them


@pytest.fixture(scope="module")
def quantize_config(prepared: str, models: Path) -> QuantizeConfig:
    """The demand on INT8 models is no part of these tests: random weights have nothing to lose."""
    value = mapping(a=models / "a.ckpt", unknown=models / "unknown.ckpt")
    return QuantizeConfig(
        prepare_run=prepared, finetune_run=value, calibration_clips=8, tolerable_loss=1.0, refuse=False
    )


@pytest.fixture(scope="module")
def quantized(quantize_config: QuantizeConfig) -> str:
    return execute(QUANTIZE, quantize_config)


@pytest.fixture(scope="module")
def evaluate_config(prepared: str, models: Path) -> EvaluateConfig:
    return EvaluateConfig(
        prepare_run=prepared,
        train_run=str(models / "unknown.ckpt"),
        distill_run="none",
        finetune_run=str(models),
        quantize_run="none",
        accelerator="cpu",
    )


@pytest.fixture(scope="module")
def evaluated(evaluate_config: EvaluateConfig, quantized: str) -> str:
    return execute(EVALUATE, replace(evaluate_config, quantize_run=quantized))


def label(path: Path) -> str:
    return f"file {path.name} (sha256 {sha256_of(path)})"


def test_files_become_int8_models_that_are_scored_and_registered(
    quantized: str, evaluated: str, models: Path
) -> None:
    assert set(runs.scores(quantized)) >= {"INT8 accuracy/a", "INT8 accuracy/unknown"}
    registered = execute(REGISTER, RegisterConfig(quantized, evaluated))
    assert mlflow.get_run(registered).info.status == "FINISHED"
    client = mlflow.MlflowClient()
    one, other = (client.get_model_version(f"adaptf-{device}", "1") for device in ("a", "unknown"))
    assert one.tags["adaptf.from_files"] == label(models / "a.ckpt")
    assert other.tags["adaptf.from_files"] == label(models / "unknown.ckpt")
    assert f"- {label(models / 'a.ckpt')}\n" in one.description and "unknown.ckpt" not in one.description
    tree = lineage(LineageConfig("models:/adaptf-a/1"))
    assert f"─ {label(models / 'a.ckpt')}\n" in tree and "deleted" not in tree and "unknown.ckpt" not in tree


def test_the_page_of_an_evaluation_names_the_files(evaluated: str, models: Path) -> None:
    page = Path(
        mlflow.artifacts.download_artifacts(run_id=evaluated, artifact_path="report.html")
    ).read_text()
    assert all(
        text in page
        for text in (label(models / "a.ckpt"), label(models / "unknown.ckpt"), "files of 2 devices")
    )


def test_the_same_files_elsewhere_or_as_a_folder_are_the_same_work_and_other_content_is_not(
    quantize_config: QuantizeConfig, quantized: str, models: Path, tmp_path: Path
) -> None:
    for path in models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    as_folder = replace(quantize_config, finetune_run=str(tmp_path))
    assert execute(QUANTIZE, as_folder, reuse=True) == quantized
    write(tmp_path / "a.ckpt", seed=7)
    monitor: list[str] = []

    def quantize_again(config: QuantizeConfig, run: StageRun) -> Result:
        monitor.append(config.finetune_run)
        return Result()

    again = replace(QUANTIZE, run=quantize_again)
    assert execute(again, as_folder, reuse=True) != quantized and len(monitor) == 1


STAGES = {stage.name: stage for stage in (QUANTIZE, EVALUATE, FINETUNE, DISTILL)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ("bus", "airport")},
            "other.ckpt tells bus, airport apart, the data has airport, bus: in another order",
        ),
        (
            {"classes": ("park", "tram", "bus")},
            "other.ckpt tells park, tram, bus apart, the data has airport, bus: another task",
        ),
        (
            {"features": MEL | {"sample_rate": 16000}},
            "other.ckpt is made for clips of 16000 Hz, those of the data have",
        ),
        (
            {"kind": SMALL_CNN, "network": {"width": 8}},
            "other.ckpt holds a network of kind 'small_cnn', one of 'tfsepnet'",
        ),
    ],
)
@pytest.mark.parametrize("stage", ["quantize", "evaluate", "finetune", "distill"])
def test_a_file_for_another_task_is_refused_before_anything_is_computed(
    stage: str,
    changes: dict[str, Any],
    message: str,
    quantize_config: QuantizeConfig,
    evaluate_config: EvaluateConfig,
    distill_config: DistillConfig,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "other.ckpt", **changes)
    teacher = mlflow.MlflowClient().create_run(runs.experiment_id(), tags={STAGE: "teacher"}).info.run_id
    mlflow.MlflowClient().set_terminated(teacher)
    given = mapping(a=models / "a.ckpt", unknown=path)
    configs = {
        "quantize": replace(quantize_config, finetune_run=given),
        "evaluate": replace(evaluate_config, finetune_run=given),
        "finetune": FinetuneConfig(prepare_run=quantize_config.prepare_run, distill_run=str(path)),
        "distill": replace(distill_config, train_run=str(path), teacher_runs=teacher),
    }
    for module in ("quantize_device", "predictions"):
        monkeypatch.setattr(f"adaptf.pipeline.{module}.predict_logits", None)
    with pytest.raises(UserError, match=message):
        execute(STAGES[stage], configs[stage])


def test_models_of_other_mel_bands_do_not_stand_side_by_side(
    quantize_config: QuantizeConfig, evaluate_config: EvaluateConfig, models: Path, tmp_path: Path
) -> None:
    given = mapping(
        a=write(tmp_path / "a.ckpt", features=MEL | {"bands": 128}), unknown=models / "unknown.ckpt"
    )
    for stage, config in ((QUANTIZE, quantize_config), (EVALUATE, evaluate_config)):
        with pytest.raises(
            UserError, match=r"a.ckpt of a and .* of unknown take different log-mels.*: bands is 128 and 64"
        ):
            execute(stage, replace(config, finetune_run=given))


def test_a_device_that_the_data_does_not_know_is_refused(
    quantize_config: QuantizeConfig, evaluate_config: EvaluateConfig, models: Path
) -> None:
    given = mapping(A=models / "a.ckpt", unknown=models / "unknown.ckpt")
    with pytest.raises(UserError, match="there are models of A, and training clips of a, b, c alone"):
        execute(QUANTIZE, replace(quantize_config, finetune_run=given))
    with pytest.raises(UserError, match="has models of A; the data's devices are a, b, c"):
        execute(EVALUATE, replace(evaluate_config, finetune_run=given))


def test_a_public_checkpoint_is_held_against_the_scenes_of_the_challenge(
    quantize_config: QuantizeConfig, golden_folder: Path, tmp_path: Path
) -> None:
    state = torch.load(golden_folder / "tfsepnet64_d17.ckpt", weights_only=True)["state_dict"]
    np.savez(tmp_path / "unknown.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    for path in (golden_folder / "tfsepnet64_d17.ckpt", tmp_path / "unknown.npz", tmp_path):
        with pytest.raises(
            UserError,
            match=r"tells airport, bus, metro, .*, tram apart, the data has airport, bus: another task",
        ):
            execute(QUANTIZE, replace(quantize_config, finetune_run=str(path)))


def test_a_run_that_began_from_a_file_says_so(train_config: TrainConfig, models: Path) -> None:
    started = execute(TRAIN, replace(train_config, pretrain_run=str(models / "a.ckpt")))
    assert mlflow.get_run(started).data.tags["adaptf.file.pretrain_run/unknown"] == label(models / "a.ckpt")
    assert f"─ {label(models / 'a.ckpt')}\n" in lineage(LineageConfig(started))


def test_a_start_that_is_kept_leaves_what_lies_beside_its_weights(
    quantize_config: QuantizeConfig, train_config: TrainConfig, models: Path, tmp_path: Path
) -> None:
    content = torch.load(models / "a.ckpt", weights_only=True) | {
        "hyper_parameters": {"optimizer": functools.partial(print)}
    }
    torch.save(content, tmp_path / "trainer.ckpt")
    config = FinetuneDeviceConfig(
        prepare_run=quantize_config.prepare_run,
        distill_run=str(tmp_path / "trainer.ckpt"),
        teacher_runs="none",
        optim=replace(train_config.optim, max_epochs=0),
        trainer=train_config.trainer,
    )
    run_id = execute(FINETUNE_DEVICE, config)
    kept = torch.load(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=BEST), weights_only=True
    )
    assert set(kept) == {"adaptf_model", "state_dict", "epoch"}
    assert all(
        torch.equal(kept["state_dict"][name], tensor) for name, tensor in content["state_dict"].items()
    )


def test_a_sweep_takes_a_file_wherever_its_workers_stand(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    assert stage_settings(SweepConfig(stage="finetune", distill_run="a.ckpt")).distill_run == str(
        models / "a.ckpt"
    )
    assert stage_settings(SweepConfig(stage="finetune")).distill_run == "latest"


def test_main_leaves_no_file_aside_in_silence(models: Path) -> None:
    config = MainConfig(
        train=TrainConfig(pretrain_run=str(models / "a.ckpt")), quantize=QuantizeConfig(finetune_run="0123")
    )
    with pytest.raises(
        UserError, match=r"leave out train.pretrain_run, quantize.finetune_run, or .* mlflow run . -e train"
    ):
        check_main(config)


def test_a_folder_is_compared_with_a_file(
    quantize_config: QuantizeConfig, models: Path, no_runs: None
) -> None:
    config = CompareConfig(f"{models},{models / 'unknown.ckpt'}", prepare_run=quantize_config.prepare_run)
    for wrong, message in (
        (
            "{a: a.ckpt, unknown: u.ckpt}",
            "runs is cut at each comma: give a folder of <device>.ckpt in place of a mapping",
        ),
        (f"{models},/nowhere.ckpt", "runs names '/nowhere.ckpt': there is no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            check(replace(config, runs=wrong))
    assert checkpoints_digest(config) != checkpoints_digest(
        replace(config, runs=f"{models},{models / 'a.ckpt'}")
    )


def test_a_comparison_with_a_folder_names_its_files(quantize_config: QuantizeConfig, models: Path) -> None:
    config = CompareConfig(f"{models},{models / 'unknown.ckpt'}", prepare_run=quantize_config.prepare_run)
    run = mlflow.get_run(execute(COMPARE, replace(config, accelerator="cpu")))
    assert run.info.run_name == "compare models, unknown"
    assert run.data.tags["adaptf.file.runs.1/a"] == label(models / "a.ckpt")
