"""A training whose process was killed goes on where it was."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch

from adaptf.tracking.tags import FINGERPRINT, STAGE

EPOCHS = 12


@pytest.mark.slow
def test_a_killed_training_is_resumed_in_its_run(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    checkpoint: Callable[..., dict[str, torch.Tensor]],
    kill_when: Callable[[list[str], Callable[[list[str]], bool]], str],
) -> None:
    training = [*command, f"--optim.max_epochs={EPOCHS}", f"--optim.restart_epochs={EPOCHS}"]
    said = kill_when(training, lambda lines: any(epoch >= 2 for epoch in epochs_in(lines[-1])))
    reached = epochs_in(said)[-1]
    assert reached < EPOCHS, "the training was over before it could be killed"
    (killed,) = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`{STAGE}` = 'train'", output_format="list"
    )
    assert killed.info.status == "RUNNING"  # nobody was left to say otherwise

    done = subprocess.run(training, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"train DIR=0.4 lr=0.01: continues run {killed.info.run_id}" in done.stdout
    assert f"train finished: run {killed.info.run_id}" in done.stdout
    epochs = epochs_in(done.stdout)
    assert (
        epochs[0] >= reached
    )  # at most the epoch that was told of last, if its checkpoint was not written yet
    assert epochs == list(range(epochs[0], EPOCHS + 1))

    alike = f"tags.`{FINGERPRINT}` = '{killed.data.tags[FINGERPRINT]}'"
    (run,) = mlflow.search_runs(search_all_experiments=True, filter_string=alike, output_format="list")
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "FINISHED")
    assert checkpoint(run.info.run_id)
    assert not list((folder / "work").glob("train-*/"))


def epochs_in(text: str) -> list[int]:
    return [int(epoch) for epoch in re.findall(r"train .*  epoch (\d+)/", text)]
