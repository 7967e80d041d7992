"""Several trainings in one process:
what they share, who watches them, and what is left of one that was stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from adaptf.audio import logmel
from adaptf.data import log_mels
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline import dataset
from adaptf.pipeline import taught as taught_module
from adaptf.pipeline.augmentations import build_augmentations, dir_p_of_clips
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.runs import metric_per_epoch
from adaptf.tracking.stage_run import StageRun, StopTraining
from adaptf.tracking.tags import FINGERPRINT

Checkpoint = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def config(
    distill_config: DistillConfig, train_config: TrainConfig, teacher_config: TeacherConfig
) -> DistillConfig:
    """Two epochs from a trained network and one teacher."""
    trained, taught = execute(TRAIN, train_config), execute(TEACHER, teacher_config)
    two_epochs = replace(distill_config.optim, max_epochs=2, restart_epochs=2)
    return replace(distill_config, train_run=trained, teacher_runs=taught, optim=two_epochs)


def history(run_id: str) -> dict[str, list[float]]:
    return {name: metric_per_epoch(run_id, name) for name in mlflow.get_run(run_id).data.metrics}


def newest() -> Any:
    return mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")[0]


def test_two_trials_that_share_are_what_two_alone_are(config: DistillConfig, checkpoint: Checkpoint) -> None:
    other = replace(
        config, loss=replace(config.loss, temperature=4.0), augment=replace(config.augment, dir_p=0.0)
    )
    shared = SharedObjects()
    for settings in (config, other, config):
        together, alone = execute(DISTILL, settings, shared=shared), execute(DISTILL, settings)
        assert history(together) == history(alone)
        for name in ("best", "last"):
            one, two = checkpoint(together, name), checkpoint(alone, name)
            assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_trials_share_is_read_once(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *values, **named: [read.append(name), function(*values, **named)][1]
        )

    counting(mlflow.artifacts, "download_artifacts")
    counting(dataset, "open_cache")
    counting(taught_module, "read_teacher_logits")
    shared = SharedObjects()
    execute(DISTILL, replace(config, seed=1), shared=shared)
    assert sorted(read) == [*["download_artifacts"] * 3, "open_cache", "read_teacher_logits"]
    read.clear()
    execute(DISTILL, replace(config, seed=2), shared=shared)
    assert read == []


def test_downloads_go_with_what_shared_them(config: DistillConfig, folder: Path) -> None:
    run = StageRun("run", "name", folder)
    path = run.download(config.prepare_run, "data")
    assert path.is_dir()
    del run
    assert not path.exists()


def test_a_watch_is_told_of_every_validation(config: DistillConfig) -> None:
    told: list[tuple[int, float]] = []
    run_id = execute(DISTILL, config, watch=lambda epoch, score: told.append((epoch, score)))
    assert told == list(zip((1, 2), history(run_id)["val/accuracy"], strict=True))


def test_a_stopped_training_is_killed_and_nothing_of_it_is_continued(
    config: DistillConfig, folder: Path
) -> None:
    class Pruned(StopTraining):
        pass

    def stop(epoch: int, score: float) -> None:
        raise Pruned("hopeless")

    with mlflow.start_run(experiment_id=runs.experiment_id()) as parent:
        with pytest.raises(Pruned, match="hopeless"):
            execute(DISTILL, replace(config, seed=3), watch=stop)
        active = mlflow.active_run()
        assert active and active.info.run_id == parent.info.run_id
    children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    (stopped,) = mlflow.search_runs(search_all_experiments=True, filter_string=children, output_format="list")
    assert stopped.info.status == "KILLED" and FINGERPRINT not in stopped.data.tags
    assert {entry.path for entry in mlflow.MlflowClient().list_artifacts(stopped.info.run_id)} == {
        "config.yaml"
    }
    assert not list((folder / "work").glob("distill-*/*"))
    assert execute(DISTILL, replace(config, seed=3)) != stopped.info.run_id


def test_any_other_error_of_a_watch_reaches_the_caller_and_the_training_can_go_on(
    config: DistillConfig,
) -> None:
    told: list[int] = []

    def fail_at_two(epoch: int, score: float) -> None:
        told.append(epoch)
        if told == [1, 2]:
            raise LookupError("the study is lost")

    settings = replace(config, seed=4)
    with pytest.raises(LookupError, match="the study is lost"):
        execute(DISTILL, settings, watch=fail_at_two)
    failed = newest()
    assert failed.info.status == "FAILED"
    assert execute(DISTILL, settings, watch=fail_at_two) == failed.info.run_id
    assert told == [1, 2, 2]


def test_an_unknown_device_in_a_group_is_refused(config: DistillConfig) -> None:
    augment = replace(config.augment, dir_p_of={"b": 0.1, "s1,c": 0.2})
    with pytest.raises(
        UserError,
        match="augment: dir_p_of names the device 's1' in 's1,c', the training clips are of a, b, c",
    ):
        execute(DISTILL, replace(config, augment=augment))


def test_groups_of_one_probability_are_that_probability_for_all(config: DistillConfig) -> None:
    def trained(**augment: Any) -> dict[str, list[float]]:
        return history(execute(DISTILL, replace(config, augment=replace(config.augment, **augment))))

    for_all = trained(dir_p=0.5, dir_devices=())
    assert trained(dir_p=0.5, dir_p_of={"a": 0.5, "b,c": 0.5}) == for_all
    assert trained(dir_p=0.0, dir_p_of={"a": 0.5, "b,c": 0.5}) == for_all
    assert trained(dir_p=0.5, dir_devices=(), dir_p_of={"a": 0.1}) != for_all


def test_groups_are_parameters_and_part_of_the_configuration(config: DistillConfig) -> None:
    def with_groups(p: float) -> DistillConfig:
        return replace(config, augment=replace(config.augment, dir_p_of={"b,c": p}))

    run_id = execute(DISTILL, with_groups(0.25))
    assert mlflow.get_run(run_id).data.params["augment.dir_p_of"] == "{'b,c': 0.25}"
    assert "  dir_p_of:\n    b,c: 0.25\n" in mlflow.artifacts.load_text(f"runs:/{run_id}/config.yaml")
    assert execute(DISTILL, with_groups(0.25), reuse=True) == run_id
    assert execute(DISTILL, with_groups(0.5), reuse=True) != run_id


def test_log_mels_kept_in_memory_change_no_training_and_are_computed_once(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = log_mels.log_mels
    monkeypatch.setattr(
        log_mels, "log_mels", lambda clips, *rest: [computed.append(len(clips)), compute(clips, *rest)][1]
    )
    monkeypatch.setattr(
        logmel, "CLIPS_IN_CACHE", 1
    )  # its last bits may depend on which clips are transformed at once
    no_dir = replace(config, seed=6, augment=replace(config.augment, dir_p=0.0))
    shared = SharedObjects()
    kept = history(execute(DISTILL, no_dir, shared=shared))
    sets = len(computed)
    execute(DISTILL, replace(no_dir, seed=7), shared=shared)
    execute(DISTILL, replace(config, seed=7), shared=shared)
    assert len(computed) == sets == 2
    none = history(execute(DISTILL, replace(no_dir, trainer=replace(config.trainer, log_mel_gb=0.0))))
    assert len(computed) == 2
    assert kept == none


def test_devices_that_are_not_trained_on_do_not_keep_log_mels_from_being_kept(config: DistillConfig) -> None:
    groups = replace(config.augment, dir_p=0.0, dir_p_of={"a": 0.5})
    data: Any = SimpleNamespace(training_devices=["a", "b", "c"], devices=("a", "b", "c"))
    for occurring, expected in (([0, 1, 2], 1), ([0], 1), ([1, 2], 0)):
        train: Any = SimpleNamespace(devices=np.array(occurring))
        p_of_clip = dir_p_of_clips(groups, data, train)
        assert (
            len(build_augmentations(groups, p_of_clip=p_of_clip, sample_rate=32000, seed=0).waveform)
            == expected
        )
