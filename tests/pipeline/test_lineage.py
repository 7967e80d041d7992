"""The tree of runs that a model came from, of a made-up chain of runs."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from adaptf.errors import UserError
from adaptf.mlproject.lineage import LineageConfig, arguments_of, lineage
from adaptf.pipeline.lineage import flat, tree
from adaptf.tracking import production

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Runs = dict[str, str]


@pytest.fixture(scope="module", autouse=True)
def experiment(database: Path, tracked) -> Iterator[str]:
    with tracked(f"sqlite:///{database}"):
        yield mlflow.create_experiment("lineage", artifact_location=(database.parent / "artifacts").as_uri())


def add(
    experiment: str,
    name: str,
    stage: str = "",
    *,
    metrics: dict[str, float] | None = None,
    tags: Runs | None = None,
    **taken: str,
) -> str:
    """Id of a new run which took from others."""
    upstream = {f"adaptf.upstream.{field}": value for field, value in taken.items()}
    made = {"adaptf.stage": stage or name, "mlflow.source.git.commit": COMMIT} | upstream | (tags or {})
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=made) as run:
        mlflow.log_metrics(metrics or {})
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def runs(experiment: str) -> Runs:
    """By name."""
    found: Runs = {}
    found["scenes"] = add(experiment, "prepare scenes", "prepare", tags={"adaptf.digest": "fedcba9876543210"})
    scenes = {"prepare_run": found["scenes"]}
    found["train"] = add(
        experiment, "train", pretrain_run="none", metrics={"best/accuracy": 0.5, "train/loss": 1.0}, **scenes
    )
    for kind in ("ssl", "ssl_sl"):
        found[kind] = add(experiment, f"teacher {kind}", "teacher", **scenes)
    teachers = f"{found['ssl']},{found['ssl_sl']}"
    found["distill"] = add(experiment, "distill", train_run=found["train"], teacher_runs=teachers, **scenes)
    for device in ("s1", "s2"):
        found[device] = add(
            experiment, f"finetune {device}", "finetune_device", distill_run=found["distill"], **scenes
        )
    found["finetune"] = add(experiment, "finetune", distill_run=found["distill"], **scenes)
    with mlflow.start_run(run_id=found["finetune"]):
        mlflow.log_dict({device: found[device] for device in ("s1", "s2")}, "models.json")
    accuracies = {"INT8 accuracy/s1": 51.0, "INT8 accuracy/s2": 52.0}
    found["quantize"] = add(
        experiment, "quantize", finetune_run=found["finetune"], metrics=accuracies, **scenes
    )
    found["evaluate"] = add(experiment, "evaluate", quantize_run=found["quantize"], train_run=found["train"])
    found["register"] = add(
        experiment, "register", quantize_run=found["quantize"], evaluate_run=found["evaluate"]
    )
    return found


@pytest.fixture(scope="module")
def version(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> str:
    client = mlflow.MlflowClient()
    client.create_registered_model("adaptf-s1")
    source = str(tmp_path_factory.mktemp("model"))
    made = client.create_model_version(
        "adaptf-s1", source, run_id=runs["register"], tags={"adaptf.device": "s1"}
    )
    client.create_model_version("adaptf-s1", source)
    return str(made.version)


def test_the_tree_of_a_version_shows_each_run_whole_once(runs: Runs, version: str) -> None:
    git = "git 0123456"
    expected = f"""\
adaptf-s1 version 1
└─ register  {runs["register"]}  {git}
   ├─ evaluate  {runs["evaluate"]}  {git}
   └─ quantize  {runs["quantize"]}  INT8 accuracy/s1 51  {git}
      ├─ finetune  {runs["finetune"]}  {git}
      │  └─ finetune s1 [finetune_device]  {runs["s1"]}  {git}
      │     ├─ distill  {runs["distill"]}  {git}
      │     │  ├─ teacher ssl  {runs["ssl"]}  {git}
      │     │  │  └─ prepare scenes  {runs["scenes"]}  {git}  data fedcba98
      │     │  ├─ teacher ssl_sl  {runs["ssl_sl"]}  {git}
      │     │  │  └─ prepare scenes  (see above)
      │     │  ├─ train  {runs["train"]}  best/accuracy 0.5  {git}
      │     │  │  └─ prepare scenes  (see above)
      │     │  └─ prepare scenes  (see above)
      │     └─ prepare scenes  (see above)
      └─ prepare scenes  (see above)"""
    assert lineage(LineageConfig(f"models:/adaptf-s1/{version}")) == expected


def test_the_version_in_production_is_found_by_alias_and_by_stage(version: str) -> None:
    production.promote("adaptf-s1", version)
    by_alias = lineage(LineageConfig("models:/adaptf-s1@production"))
    mlflow.MlflowClient().delete_registered_model_alias("adaptf-s1", "production")
    by_stage = lineage(LineageConfig("models:/adaptf-s1@production"))
    assert by_alias == by_stage
    assert by_alias.startswith("adaptf-s1 version 1, in production\n└─ register")


def test_the_tree_of_a_run_shows_all_devices(runs: Runs) -> None:
    text = lineage(LineageConfig(runs["quantize"]))
    assert text.startswith(
        f"run {runs['quantize']}\n└─ quantize  {runs['quantize']}  INT8 accuracy/s1 51, INT8 accuracy/s2 52"
    )
    assert (
        f"finetune s1 [finetune_device]  {runs['s1']}" in text
        and f"finetune s2 [finetune_device]  {runs['s2']}" in text
    )
    assert text.count(f"distill  {runs['distill']}") == 1 and "distill  (see above)" in text


def test_every_run_is_listed_once(runs: Runs) -> None:
    found = [node.run_id for node in flat(tree(runs["quantize"], "s1"))]
    assert found[:3] == [runs["quantize"], runs["finetune"], runs["s1"]]
    assert len(found) == len(set(found)) == 8


def test_deleted_and_missing_runs_are_named(experiment: str) -> None:
    deleted = add(experiment, "train")
    left = add(experiment, "distill", train_run=deleted, teacher_runs="0123456789abcdef")
    mlflow.MlflowClient().delete_run(deleted)
    text = lineage(LineageConfig(left))
    assert "├─ 0123456789abcdef (missing: it was deleted)\n" in text
    assert text.endswith(f"└─ train  {deleted}  git 0123456  (deleted)")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/adaptf-s1/9", "there is no models:/adaptf-s1/9 in sqlite"),
        ("models:/adaptf-s1/2", "adaptf-s1 version 2 names no run that it came from"),
        ("models:/adaptf-nobody@production", "no version of 'adaptf-nobody' is in production"),
        ("models:/adaptf-s1@champion", "there is no models:/adaptf-s1@champion"),
        ("0000", "there is no run '0000'"),
        ("adaptf-s1@production", "'adaptf-s1@production' is no model: give models:/adaptf-s1@production"),
    ],
)
def test_a_model_that_does_not_exist_is_named(model: str, message: str, version: str) -> None:
    with pytest.raises(UserError, match=message):
        lineage(LineageConfig(model))


def test_the_model_may_stand_without_its_name() -> None:
    assert arguments_of(["models:/adaptf-s1/3"]) == ["--model=models:/adaptf-s1/3"]
    assert arguments_of(["--model", "0123"]) == ["--model", "0123"]
    assert arguments_of([]) == []
