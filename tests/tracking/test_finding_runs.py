"""Runs are found however many others there are, and however many are named at once."""

import mlflow
import pytest

from adaptf.errors import UserError
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.evaluate import EvaluateConfig, left_out
from adaptf.paths import user_path
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.fingerprint import fingerprint
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.sweeps.space import read_space
from adaptf.tracking import runs
from adaptf.tracking.tags import STAGE, TRIAL

pytestmark = pytest.mark.slow


def add(stage: str, **tags: str) -> str:
    """Id of a new finished run."""
    client = mlflow.MlflowClient()
    made = client.create_run(runs.experiment_id(), tags={STAGE: stage, **tags}).info.run_id
    client.set_terminated(made)
    return str(made)


@pytest.fixture
def small_pages(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow gives two runs at once, where it would give 1,000."""
    search = mlflow.MlflowClient.search_runs
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "search_runs",
        lambda client, *given, **named: search(client, *given, **{**named, "max_results": 2}),
    )


def test_trials_do_not_hide_the_runs_before_them(small_pages: None) -> None:
    wanted = add("distill")
    for number in range(5):
        add("distill", **{TRIAL: str(number)})
    assert runs.latest("distill", {}) == wanted and runs.any_finished("distill")
    assert (
        resolve_upstream(EvaluateConfig(prepare_run=add("prepare"), distill_run="latest")).distill_run
        == wanted
    )


def test_the_newest_of_each_is_found_behind_many_others(small_pages: None) -> None:
    wanted = [add("teacher", kind=kind) for kind in ("b", "a")]
    for _ in range(3):
        wanted[1] = add("teacher", kind="a")
    assert runs.latest_of_each("teacher", "kind") == wanted[::-1]


@pytest.mark.parametrize("count", [1, 8, 40])
def test_as_many_runs_as_one_likes_are_no_file_name(environment: dict[str, str], count: int) -> None:
    wanted = ",".join(add("train") for _ in range(count))
    given = [f"--train_run={wanted}", f"--prepare_run={add('prepare')}"]
    given += [f"--{name}_run=none" for name in ("distill", "finetune", "quantize")]
    config = resolve_upstream(parse(EvaluateConfig, stage="evaluate", arguments=given))
    assert config.train_run == wanted and fingerprint("evaluate", config, "")


def test_as_many_seeds_as_one_likes_are_no_file_name() -> None:
    seeds = ",".join(map(str, range(400)))
    assert len(parse(DistillConfig, stage="distill", arguments=[f"--seeds={seeds}"]).seeds) == 400


def test_a_name_that_no_file_can_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a" * 300
    with pytest.raises(SystemExit):
        parse(DistillConfig, stage="distill", arguments=[f"--preset={long}"])
    assert "no file, and no artifact" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"sweep.space 'a+' is neither one of default"):
        read_space(long, "distill", DistillConfig())
    with pytest.raises(UserError, match=r"data.cache is 'a{60}\.\.\.': no file can have so long a name"):
        user_path(long, what="data.cache")


def test_evaluate_tells_which_settings_no_run_stands_for() -> None:
    config = EvaluateConfig(distill_run="none", quantize_run="none")
    assert left_out(config) == "Left out, without a run: distilled, per device INT8."
    assert left_out(EvaluateConfig()) == ""
