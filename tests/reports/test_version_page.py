"""What the registry's page says of a version, and which run's scores it shows."""

import mlflow
import pandas as pd
import pytest
from mlflow.entities import RunStatus

from adaptf.mlproject.register import RegisterConfig, scores_of, scoring_run
from adaptf.pipeline.lineage import Node
from adaptf.reports.version_page import NOT_SCORED, device_page, router_page
from adaptf.tracking import runs
from adaptf.tracking.tags import STAGE, UPSTREAM

REPORT = pd.DataFrame(
    {
        "float accuracy": [60.0, 55.0],
        "INT8 accuracy": [59.5, 54.0],
        "OpenVINO ms": [float("nan"), 0.9],
        "judged on": ["200 validation clips of s1", "900 validation clips of all devices"],
        "parameters": [126_858, 126_858],
        "macs": [29_419_648, 29_419_648],
        "model_bytes": [126_868, 126_868],
        "frames": [64, 64],
    },
    index=pd.Index(["s1", "unknown"], name="device"),
)
CAME = [
    Node("1" * 32, name="quantize", experiment_id="7", commit="c" * 40, data_digest="d" * 32),
    Node("2" * 32, name="train", experiment_id="7", commit="e" * 40),
    Node("3" * 32, remark="missing"),
]


def predictions() -> pd.DataFrame:
    """By device s1, s5 and s6: two of two, one of two and none of two clips recognised."""
    rows = [
        ("s1", "bus", "bus"),
        ("s1", "tram", "tram"),
        ("s5", "bus", "bus"),
        ("s5", "tram", "bus"),
        ("s6", "bus", "tram"),
        ("s6", "tram", "bus"),
    ]
    return pd.DataFrame(rows, columns=["device", "scene", "predicted"])


@pytest.fixture(scope="module")
def evaluated(environment: dict[str, str]) -> str:
    """A run whose note begins with what has to be known of the clips."""
    tags = {
        STAGE: "evaluate",
        "mlflow.note.content": "Synthesised sounds. 6 test clips.\n\n| a table |",
        f"{UPSTREAM}quantize_run": "q1",
    }
    with mlflow.start_run(experiment_id=runs.experiment_id(), tags=tags) as run:
        return str(run.info.run_id)


def test_the_page_of_a_device_shows_the_scores_of_its_own_clips(evaluated: str) -> None:
    page = device_page("s1", REPORT, predictions(), evaluated, CAME)
    assert "INT8 model of device **s1**." in page
    assert "Test clips: Synthesised sounds. 6 test clips.\n\n| scene" in page
    assert "| bus | 100.0 | 1 |\n| tram | 100.0 | 1 |\n| macro average | 100.0 | 2 |" in page
    assert "| device" not in page
    assert "59.5 % macro-average accuracy as INT8, 60.0 % before, on 200 validation clips of s1" in page


def test_the_page_says_that_a_model_has_learnt_from_the_clips_that_judge_it(evaluated: str) -> None:
    came = [*CAME, Node("4" * 32, name="distill T=2", refit=True)]
    page = device_page("s1", REPORT, predictions(), evaluated, came)
    assert "on 200 validation clips of s1, **from which the model has learnt** (refit of distill T=2)" in page
    assert "has learnt" not in device_page("s1", REPORT, predictions(), evaluated, CAME)


def test_the_page_of_unknown_shows_the_scores_of_all_devices_without_a_model(evaluated: str) -> None:
    page = device_page("unknown", REPORT, predictions(), evaluated, CAME)
    assert "| bus | 50.0 | 2 |\n| tram | 0.0 | 2 |\n| macro average | 25.0 | 4 |" in page
    assert "| s5 | 50.0 | 2 |\n| s6 | 0.0 | 2 |\n| macro average | 25.0 | 4 |" in page


def test_the_page_of_the_router_shows_the_scores_per_scene_and_per_device(evaluated: str) -> None:
    page = router_page({"s1": "adaptf-s1/3", "unknown": "adaptf-unknown/2"}, predictions(), evaluated, CAME)
    assert "| s1 | adaptf-s1/3 |\n| unknown | adaptf-unknown/2 |" in page
    assert "| bus | 66.7 | 3 |\n| tram | 33.3 | 3 |\n| macro average | 50.0 | 6 |" in page
    assert "| s1 | 100.0 | 2 |\n| s5 | 50.0 | 2 |\n| s6 | 0.0 | 2 |" in page


def test_a_page_tells_the_budget_and_links_the_runs(evaluated: str) -> None:
    page = device_page("s1", REPORT, predictions(), evaluated, CAME)
    assert "| multiply-accumulates for one clip | 29,419,648 | 30,000,000 |" in page
    assert "| bytes: INT8 weights, FP16 biases (held to the limit) | 126,868 | 128,000 |" in page
    assert "| frames of one clip | 64 |" in page
    assert f"- [train](#/experiments/7/runs/{'2' * 32})" in page
    assert "3" * 32 not in page
    assert f"Data digest: {'d' * 32}." in page and f"Git commit: {'c' * 40}." in page


def test_a_page_says_that_a_model_was_not_scored(evaluated: str) -> None:
    assert NOT_SCORED in device_page("s1", REPORT, None, "none", CAME)
    assert NOT_SCORED in router_page({}, None, "none", CAME)
    none_of_it = predictions().query("device != 's1'")
    assert "None of the test clips is for this model." in device_page(
        "s1", REPORT, none_of_it, evaluated, CAME
    )


def test_figures_become_tags_where_they_are_known() -> None:
    tags = scores_of(REPORT, "s1")
    assert (tags["adaptf.model_bytes"], tags["adaptf.INT8_accuracy"]) == ("126868", "59.5")
    assert "adaptf.OpenVINO_ms" not in tags


def test_the_scores_are_those_of_the_models_that_are_registered(evaluated: str) -> None:
    assert scoring_run(RegisterConfig(quantize_run="q1", evaluate_run=evaluated)) == evaluated
    with mlflow.start_run(
        experiment_id=runs.experiment_id(),
        tags={STAGE: "evaluate", f"{UPSTREAM}quantize_run": "q2,q3"},
    ) as other:
        pass
    assert scoring_run(RegisterConfig(quantize_run="q1", evaluate_run=other.info.run_id)) == evaluated
    assert scoring_run(RegisterConfig(quantize_run="q3", evaluate_run=other.info.run_id)) == other.info.run_id
    both = f"{other.info.run_id},{evaluated}"
    assert scoring_run(RegisterConfig(quantize_run="q1", evaluate_run=both)) == evaluated
    assert scoring_run(RegisterConfig(quantize_run="q3", evaluate_run=both)) == other.info.run_id
    assert scoring_run(RegisterConfig(quantize_run="q4", evaluate_run=both)) == "none"
    assert scoring_run(RegisterConfig(quantize_run="q4", evaluate_run=evaluated)) == "none"
    assert scoring_run(RegisterConfig(quantize_run="q1", evaluate_run="none")) == "none"
    mlflow.MlflowClient().set_terminated(evaluated, RunStatus.to_string(RunStatus.FAILED))
    assert scoring_run(RegisterConfig(quantize_run="q1", evaluate_run=other.info.run_id)) == "none"
