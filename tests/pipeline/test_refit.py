"""Refits: what they learn from, where they end, and what is no longer judged on the validation clips."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlflow
import pytest
import torch

from adaptf.errors import UserError
from adaptf.mlproject.compare import learnt_from_them
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.main import MainConfig, check
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.sweep import SweepConfig
from adaptf.mlproject.sweep import check as check_sweep
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.compared import Compared
from adaptf.pipeline.config import AugmentConfig, DataConfig
from adaptf.pipeline.refit import refits_of, what_clips_judge
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.promotion.comparison import validation_predictions
from adaptf.sweeps.check import check_trial
from adaptf.tracking import runs
from adaptf.tracking.runs import UpstreamError, metric_per_epoch
from adaptf.tracking.several import SEEDS
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE, UPSTREAM
from adaptf.training.task import ClassifierTask

EPOCHS = 3
Weights = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def refit(train_config: TrainConfig) -> str:
    """Id of a run of `train`."""
    return execute(TRAIN, refitted(train_config))


@pytest.fixture(scope="module")
def distilled(distill_config: DistillConfig, teacher_config: TeacherConfig, refit: str) -> str:
    """Id of a run of `distill` that is a refit too."""
    return execute(
        DISTILL,
        replace(refitted(distill_config), train_run=refit, teacher_runs=execute(TEACHER, teacher_config)),
    )


def refitted(config: Any) -> Any:
    return replace(config, refit=True, optim=replace(config.optim, max_epochs=EPOCHS, restart_epochs=EPOCHS))


@pytest.mark.parametrize("stage", ["train", "distill"])
def test_a_refit_learns_from_all_clips_that_training_and_validation_have(
    stage: str,
    train_config: TrainConfig,
    distill_config: DistillConfig,
    distilled: str,
    training_of: Callable[..., Any],
) -> None:
    upstream = mlflow.get_run(distilled).data.tags
    taught = replace(distill_config, teacher_runs=upstream["adaptf.upstream.teacher_runs"], seed=7)
    plain = replace(taught, train_run=execute(TRAIN, train_config, reuse=True))
    run, config = {"train": (TRAIN, replace(train_config, seed=7)), "distill": (DISTILL, plain)}[stage]
    plain_training = training_of(run, config)
    train_clips, validation_clips = plain_training.train, plain_training.validation
    assert validation_clips is not None and len(validation_clips)
    refit_training = training_of(run, replace(config, refit=True))
    every = refit_training.train
    assert refit_training.validation is None
    assert sorted(every.filenames) == sorted((*train_clips.filenames, *validation_clips.filenames))
    assert every.teacher_logits.shape[:2] == (len(every), train_clips.teacher_logits.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("of", ["refit", "distilled"])
def test_a_refit_ends_after_its_epochs_with_the_last_one(
    of: str, request: pytest.FixtureRequest, checkpoint: Weights
) -> None:
    run_id = request.getfixturevalue(of)
    assert len(metric_per_epoch(run_id, "train/loss")) == EPOCHS
    best, last = checkpoint(run_id, "best"), checkpoint(run_id, "last")
    assert best.keys() == last.keys() and all(torch.equal(best[name], last[name]) for name in best)


def test_a_refit_tells_no_score(refit: str) -> None:
    found = mlflow.get_run(refit).data
    assert runs.scores(refit) == {} and not [name for name in found.metrics if name.startswith("val/")]
    assert (
        f"the last of {EPOCHS} epochs: no clips were held back that could judge it"
        in found.tags["mlflow.note.content"]
    )


def test_an_interrupted_refit_goes_on_and_ends_after_its_epochs(
    refit: str, train_config: TrainConfig, checkpoint: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ClassifierTask.training_step

    def breaks(task: ClassifierTask, batch: Any, batch_index: int) -> Any:
        if task.current_epoch == EPOCHS - 1:
            raise RuntimeError("power cut")
        return step(task, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTask, "training_step", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            execute(TRAIN, refitted(train_config))
    resumed = execute(TRAIN, refitted(train_config))
    assert resumed != refit
    assert metric_per_epoch(resumed, "train/loss") == metric_per_epoch(refit, "train/loss")


def test_refits_are_found_behind_what_was_built_on_them(
    distilled: str, refit: str, train_config: TrainConfig
) -> None:
    assert len(refits_of(distilled)) == 2 and len(refits_of(refit)) == 1
    assert refits_of(execute(TRAIN, train_config, reuse=True)) == []


def test_seeds_of_a_refit_are_listed_without_a_mean(train_config: TrainConfig) -> None:
    parent = mlflow.get_run(execute(TRAIN, replace(refitted(train_config), seeds=(0, 1))))
    assert set(SEEDS.children(parent)) == {0, 1}


def test_a_distillation_does_not_choose_by_clips_that_its_start_has_learnt_from(
    distill_config: DistillConfig, refit: str, distilled: str
) -> None:
    teachers = mlflow.get_run(distilled).data.tags["adaptf.upstream.teacher_runs"]
    with pytest.raises(
        UserError, match=rf"train_run={refit} has learnt from the validation clips \(refit of train"
    ):
        execute(DISTILL, replace(distill_config, train_run=refit, teacher_runs=teachers))


def test_a_sweep_does_not_begin_on_a_start_that_has_learnt_from_the_clips_that_judge(
    distill_config: DistillConfig, refit: str
) -> None:
    with pytest.raises(UserError, match=f"train_run={refit} has learnt from the validation clips"):
        check_trial(DISTILL, replace(distill_config, train_run=refit), ["a"])


def test_main_says_before_any_work_what_a_refit_needs(data: DataConfig) -> None:
    config = MainConfig(data=data)
    with pytest.raises(UserError, match=r"set distill\.refit=true too"):
        check(replace(config, train=replace(config.train, refit=True)))


def test_a_sweep_needs_clips_to_judge_by(distill_config: DistillConfig) -> None:
    with pytest.raises(UserError, match="a refit leaves no clips to judge a trial by"):
        check_sweep(SweepConfig(stage="distill", distill=replace(distill_config, refit=True)))
    with pytest.raises(UserError, match=r"finetune\.refit and a sweep don't go together"):
        check_sweep(SweepConfig(stage="finetune", finetune=FinetuneConfig(refit=True)))


def test_a_sweep_of_device_models_needs_clips_that_their_start_has_not_learnt(distilled: str) -> None:
    with pytest.raises(UserError, match=f"distill_run={distilled} has learnt from the validation clips"):
        check_trial(FINETUNE, FinetuneConfig(distill_run=distilled, teacher_runs="none"), ["a"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"distill": DistillConfig(augment=AugmentConfig(dir_folder="nowhere"))},
            r"distill.*dir_folder is 'nowhere', which is no folder",
        ),
    ],
)
def test_main_says_before_any_work_what_does_not_go_together(
    data: DataConfig, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        check(replace(MainConfig(data=data), **changes))


def test_a_comparison_says_which_model_has_learnt_from_its_clips(
    train_config: TrainConfig, refit: str
) -> None:
    plain = execute(TRAIN, train_config, reuse=True)
    found = [Compared("before", (plain,), (plain,)), Compared("after", (refit,), (refit,))]
    (told,) = learnt_from_them(found, "validation")
    assert told.startswith("after has **learnt from these clips** (refit of train ")
    assert learnt_from_them(found, "test") == []


def test_tables_say_that_their_clips_were_learnt() -> None:
    assert what_clips_judge([]) == "by which the checkpoint was chosen"
    assert what_clips_judge([], chose=False) == "which chose no checkpoint"
    assert what_clips_judge(["distill T=2"]).startswith(
        "**from which the model has learnt** (refit of distill T=2)"
    )


def test_quantize_says_that_its_clips_were_learnt(
    distilled: str,
    distill_config: DistillConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tags = {STAGE: "finetune", f"{UPSTREAM}distill_run": distilled}
    with mlflow.start_run(experiment_id=runs.experiment_id(), tags=tags) as tuned:
        mlflow.log_dict({"unknown": distilled}, "models.json")
    monkeypatch.setattr(
        "adaptf.pipeline.quantize_devices.fresh_process", lambda: pytest.fail("the models are judged")
    )
    with pytest.raises(pytest.fail.Exception, match="judged"):
        execute(
            QUANTIZE, QuantizeConfig(prepare_run=distill_config.prepare_run, finetune_run=tuned.info.run_id)
        )
    said = "Accuracies below are of validation clips, **from which the model has learnt** (refit of distill"
    assert said in capsys.readouterr().out


def test_versions_that_learnt_from_the_validation_clips_are_not_compared_on_them(
    distilled: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    module = "adaptf.promotion.comparison.tags_of"
    monkeypatch.setattr(
        module, lambda name, version: {"adaptf.device": "a", "adaptf.quantize_run": distilled}
    )
    with pytest.raises(
        UpstreamError, match=r"version 2 has learnt from the validation clips .*on test clips"
    ):
        validation_predictions("adaptf-a", "2", StageRun("id", "promote", tmp_path))
