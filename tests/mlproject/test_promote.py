"""The stages promote and rollback:
every gate with a version that fails at it alone, force, and what is kept."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from fixtures.predictions import predictions

from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.mlproject import promote as stage
from adaptf.mlproject.promote import PROMOTE, PromoteConfig
from adaptf.mlproject.rollback import ROLLBACK, RollbackConfig
from adaptf.pipeline.stage import execute
from adaptf.promotion import gates, moving
from adaptf.promotion.comparison import Comparison
from adaptf.serving import router_model
from adaptf.tracking import production, registry
from adaptf.tracking.tags import STAGE

GOOD = {
    "adaptf.relative_loss": "0.8", "adaptf.macs": "29419648", "adaptf.model_bytes": "126868",
    "adaptf.INT8_convolutions": "46/46",
}  # fmt: skip
Register = Callable[..., str]
WORSE = (
    "is worse than version 1, which is in production: -30.00 points of macro-average accuracy (95 % interval "
    "-"
)
numbers = count()


@pytest.fixture(scope="module", autouse=True)
def experiment(database: Path, tracked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracked(f"sqlite:///{database}"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTF_WORK", str(tmp_path_factory.mktemp("work")))
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "promotions")
        yield mlflow.create_experiment(
            "promotions", artifact_location=(database.parent / "artifacts").as_uri()
        )


@pytest.fixture(autouse=True)
def self_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes a second: it is left out where something else is tested."""
    if "real_self_test" not in request.fixturenames:
        monkeypatch.setattr(gates, "routing_problems", lambda folder: [])


@pytest.fixture
def real_self_test() -> None:
    """Asks for the real one."""


@pytest.fixture(scope="module")
def logged(experiment: str, make_bundle) -> str:
    """A device's model."""
    with mlflow.start_run(experiment_id=experiment):
        return router_model.log_router(make_bundle("unknown"), "adaptf-s1")


@pytest.fixture
def device() -> str:
    """One that no other test knows."""
    return f"d{next(numbers)}"


@pytest.fixture
def register(experiment: str, logged: str, device: str, tmp_path: Path) -> Register:
    """Registers a version of the device's model that passes every gate, but for what is changed;
    gives its number."""

    def make(
        table: pd.DataFrame | None = None,
        *,
        uri: str = logged,
        without: str = "",
        former: bool = False,
        **changed: str,
    ) -> str:
        with mlflow.start_run(experiment_id=experiment, tags={STAGE: "quantize"}) as quantized:
            if without != "validation":
                table = predictions() if table is None else table
                if former:
                    table.to_csv(tmp_path / f"{device}.csv", index=False)
                else:
                    table.to_parquet(tmp_path / f"{device}.parquet", index=False)
                mlflow.log_artifact(
                    str(tmp_path / f"{device}.{'csv' if former else 'parquet'}"), "validation"
                )
        tags = GOOD | {"adaptf.device": device, "adaptf.quantize_run": quantized.info.run_id} | changed
        tags.pop(without, None)
        return registry.register(uri, f"adaptf-{device}", tags=tags, description="")

    return make


def promoted(device: str, version: str, **settings: object) -> str:
    """Id of the run that promoted."""
    config = PromoteConfig(device=device, version=version, register_run="none", **settings)
    return execute(PROMOTE, config)


def rolled_back(device: str, **settings: object) -> str:
    return execute(ROLLBACK, RollbackConfig(device=device, **settings))


def newest_run() -> mlflow.entities.Run:
    return mlflow.search_runs(experiment_names=["promotions"], max_results=1, output_format="list")[0]


def now(device: str) -> str | None:
    return production.production_or_none(f"adaptf-{device}")


def damaged(uri: str, experiment: str, make_bundle, damage: Callable[[Path], object]) -> str:
    """URI of a device's model whose bundle was changed after it was logged."""
    with mlflow.start_run(experiment_id=experiment):
        uri = router_model.log_router(make_bundle("unknown"), "adaptf-damaged")
    location = mlflow.get_logged_model(uri.removeprefix("models:/")).artifact_location.removeprefix("file://")
    (manifest,) = Path(location).rglob("router.json")
    damage(manifest.parent)
    return uri


def test_the_first_version_is_promoted_and_said_to_have_no_rival(device, register, capsys, real_self_test):
    run = mlflow.get_run(promoted(device, register(), reason="the first one"))
    assert now(device) == "1"
    assert (
        f"adaptf-{device} version 1: nothing is in production that it could be compared with"
        in capsys.readouterr().out
    )
    tags = run.data.tags
    assert (tags[f"adaptf.promoted.adaptf-{device}"], tags[f"adaptf.replaced.adaptf-{device}"]) == (
        "1",
        "none",
    )
    assert tags["adaptf.reason"] == "the first one" and "mlflow.user" in tags
    assert f"| adaptf-{device}&emsp; | none&emsp; | 1 |" in tags["mlflow.note.content"]
    assert "**Reason:** the first one" in tags["mlflow.note.content"]
    version = mlflow.MlflowClient().get_model_version(f"adaptf-{device}", "1").tags
    assert (version["adaptf.promote_run"], version["adaptf.reason"]) == (run.info.run_id, "the first one")
    assert "adaptf.overridden" not in version


def test_a_better_version_is_promoted_with_the_difference_shown_and_kept(device, register, capsys):
    promoted(device, register(predictions(0.7)))
    run = mlflow.get_run(promoted(device, register(predictions(0.8))))
    said = (
        f"adaptf-{device} version 2 against version 1, which is in production: +10.00 points of "
        f"macro-average accuracy (95 % interval +"
    )
    assert said in capsys.readouterr().out and said in run.data.tags["mlflow.note.content"]
    assert (
        "on the 160 validation clips of both, of all devices (only 0 usable ones are of d"
        in run.data.tags["mlflow.note.content"]
    )
    assert run.data.metrics[f"difference mean/adaptf-{device}"] == pytest.approx(10)
    assert (
        0
        < run.data.metrics[f"difference low/adaptf-{device}"]
        <= 10
        <= run.data.metrics[f"difference high/adaptf-{device}"]
    )
    table = pd.read_csv(
        mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="gates.csv")
    )
    assert table.loc[0, ["clips", "difference"]].tolist() == [160, pytest.approx(10)]


def test_a_version_that_may_be_as_good_is_promoted(device, register):
    promoted(device, register(predictions(0.8)))
    one_missed = predictions(0.8)
    one_missed.loc[0, "predicted"] = "bus"
    promoted(device, register(one_missed))
    assert now(device) == "2"


def test_the_version_in_production_may_be_promoted_again(device, register, capsys):
    number = register()
    first, second = promoted(device, number), promoted(device, number)
    assert first != second
    assert f"adaptf-{device} version 1 is in production already" in capsys.readouterr().out


def test_a_worse_version_is_refused_and_the_refusal_is_kept(device, register):
    promoted(device, register(predictions(0.8)))
    with pytest.raises(UserError) as refused:
        promoted(device, register(predictions(0.5)))
    message = str(refused.value)
    assert message.startswith(f"nothing was promoted:\n  adaptf-{device} version 2 {WORSE}")
    assert "\nTo promote in spite of it: -P force=true -P reason='why'" in message
    assert now(device) == "1"
    run = newest_run()
    assert run.info.status == "FAILED" and WORSE in run.data.tags["mlflow.note.content"]
    assert run.data.metrics[f"difference mean/adaptf-{device}"] == pytest.approx(-30)
    assert not [tag for tag in run.data.tags if tag.startswith("adaptf.promoted.")]


def test_a_worse_version_is_forced_with_a_reason_which_is_kept(device, register):
    promoted(device, register(predictions(0.8)))
    run = mlflow.get_run(
        promoted(device, register(predictions(0.5)), force=True, reason="the other one has a licence problem")
    )
    assert now(device) == "2"
    version = mlflow.MlflowClient().get_model_version(f"adaptf-{device}", "2").tags
    for tags in (run.data.tags, version):
        assert tags["adaptf.reason"] == "the other one has a licence problem"
        assert WORSE in tags["adaptf.overridden"]
    assert "**Forced, in spite of:**" in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize("reason", ["", "  "])
def test_force_without_a_reason_is_refused_before_anything_is_looked_at(device, reason, monkeypatch):
    monkeypatch.setattr(gates, "judge", None)
    with pytest.raises(UserError, match=r"^force needs a reason"):
        promoted(device, "1", force=True, reason=reason)


def test_a_loss_by_quantization_is_refused_unless_forced(device, register):
    number = register(**{"adaptf.relative_loss": "5.1", "adaptf.standing_loss": "1.2"})
    with pytest.raises(
        UserError, match=r"version 1: 1\.2 percent relative loss by quantization, at most 1 are allowed"
    ):
        promoted(device, number)
    promoted(device, number, force=True, reason="for the demo")
    assert now(device) == "1"


def test_logits_far_from_the_float_ones_need_a_reason(device, register):
    number = register(**{"adaptf.logit_error": "0.31"})
    with pytest.raises(
        UserError,
        match=r"version 1: 0\.31 of the logits' spread between INT8 and float, at most 0\.15 are allowed",
    ):
        promoted(device, number)
    promoted(device, number, force=True, reason="for the demo")
    assert now(device) == "1"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adaptf.model_bytes": "128596"}, "128,596 bytes, at most 128,000 are allowed"),
        ({"adaptf.macs": "30740608"}, "30,740,608 MACs, at most 30,000,000 are allowed"),
        ({"adaptf.served_macs": "102557824"}, "102,557,824 MACs in its file, at most 30,000,000 are allowed"),
        ({"adaptf.served_bytes": "162580"}, "162,580 bytes in its file, at most 128,000 are allowed"),
        ({"adaptf.macs": "nan"}, "the tag adaptf.macs is 'nan', it should be the number of MACs"),
        (
            {"without": "adaptf.model_bytes"},
            "there is no tag adaptf.model_bytes: the version was not registered by `register`",
        ),
        ({"adaptf.INT8_convolutions": "45/46"}, "45 of 46 convolutions are INT8, all of them should be"),
        (
            {"adaptf.INT8_convolutions": "0/0"},
            "the tag adaptf.INT8_convolutions is '0/0', it should be such as '46/46'",
        ),
        (
            {"without": "adaptf.INT8_convolutions"},
            "there is no tag adaptf.INT8_convolutions: the version was not registered by `register`",
        ),
    ],
)
def test_a_version_over_the_budget_or_not_int8_throughout_is_never_promoted(
    changed, message, force, device, register
):
    with pytest.raises(UserError) as refused:
        promoted(device, register(**changed), force=force, reason="why not" if force else "")
    assert str(refused.value) == f"nothing was promoted:\n  adaptf-{device} version 1: {message}"
    assert now(device) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "unknown.pt2").unlink(),
            "unknown.pt2 of a bundle is not what was registered",
        ),
        (shutil.rmtree, "has no bundle that can be read"),
    ],
)
def test_a_version_that_cannot_route_is_never_promoted(
    damage, message, device, register, experiment, make_bundle, logged, real_self_test
):
    number = register(uri=damaged(logged, experiment, make_bundle, damage))
    with pytest.raises(
        UserError, match=f"adaptf-{device} version 1 fails the routing self-test: .*{message}"
    ):
        promoted(device, number, force=True, reason="why not")
    assert now(device) is None


def test_a_version_that_does_not_exist_is_named_with_those_that_do(device, register):
    register(), register()
    with pytest.raises(UserError, match=rf"adaptf-{device} has no version 7 \(versions: 1, 2\)"):
        promoted(device, "7")
    with pytest.raises(UserError, match=r"adaptf-nobody has no version 1 \(versions: none\)"):
        promoted("nobody", "1")


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"without": "validation"}, "has no artifact 'validation'"),
        ({"without": "adaptf.quantize_run"}, "version 2 has no tags adaptf.device and adaptf.quantize_run"),
        ({"table": predictions(clips=9)}, "both were judged on 18 clips, at least 20 are needed"),
    ],
)
def test_a_version_that_cannot_be_compared_is_refused_unless_forced(made, problem, device, register):
    promoted(device, register())
    number = register(**made)
    with pytest.raises(UserError) as refused:
        promoted(device, number)
    assert f"adaptf-{device} version 2 can't be compared with version 1, which is in production: " in str(
        refused.value
    )
    assert problem in str(refused.value)
    promoted(device, number, force=True, reason="other clips")
    assert now(device) == "2"


def test_a_version_is_compared_with_one_whose_predictions_a_former_version_left_as_csv(device, register):
    promoted(device, register(former=True))
    with pytest.raises(UserError, match=r"version 2 is worse than version 1, which is in production"):
        promoted(device, register(predictions(0.5)))


def test_versions_are_compared_over_the_scenes_that_there_are_and_the_others_are_named(
    device, register, capsys
):
    promoted(device, register())
    run_id = promoted(device, register(predictions(scenes=("bus",), places=40)))
    assert now(device) == "2"
    said = f"on the 80 validation clips of both, of all devices (only 0 usable ones are of {device}); "
    said += "none of airport (5 places, p 1)"
    assert said in capsys.readouterr().out and said in mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="gates.csv"))
    assert table.loc[0, "scenes without clips"] == "airport"


def test_two_promotions_and_two_rollbacks_are_four_runs_that_tell_of_themselves(device, register, capsys):
    for right in (0.7, 0.8, 0.9):
        promoted(device, register(predictions(right)))
    rolled = [mlflow.get_run(rolled_back(device, reason="complaints")), mlflow.get_run(rolled_back(device))]
    told = [
        [run.data.tags[f"adaptf.{moved}.adaptf-{device}"] for moved in ("replaced", "promoted")]
        for run in rolled
    ]
    assert told == [["3", "2"], ["2", "1"]]
    assert [run.data.tags.get("adaptf.reason") for run in rolled] == ["complaints", None]
    assert [run.data.tags[STAGE] for run in rolled] == ["rollback", "rollback"]
    assert f"adaptf-{device} version 2 is in production (before: 3)" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=f"adaptf-{device} has no version to go back to: version 1 is in production"
    ):
        rolled_back(device)
    assert now(device) == "1"


def test_a_version_that_no_longer_routes_is_not_gone_back_to(
    device, register, experiment, make_bundle, monkeypatch
):
    for _ in range(2):
        promoted(device, register())
    monkeypatch.setattr(gates, "routing_problems", lambda folder: ["a clip of device 'a' is answered by 'b'"])
    with pytest.raises(
        UserError,
        match=r"nothing was rolled back:\n.* version 1 fails the routing self-test: a clip of device 'a'",
    ):
        rolled_back(device)
    assert now(device) == "2"


def test_nothing_moves_where_production_changed_while_the_gates_were_at_work(device, register, monkeypatch):
    for _ in range(2):
        promoted(device, register())
    register(), register()
    monkeypatch.setattr(
        gates, "routing_problems", lambda folder: production.promote(f"adaptf-{device}", "3") or []
    )
    for attempt in (lambda: promoted(device, "4"), lambda: rolled_back(device)):
        with pytest.raises(
            UserError, match=rf"nothing was moved: .* adaptf-{device} version 3 \(before: 2\); start again"
        ):
            attempt()
        assert now(device) == "3"
        production.roll_back(f"adaptf-{device}")
    assert "adaptf.promote_run" not in mlflow.MlflowClient().get_model_version(f"adaptf-{device}", "4").tags


def test_a_rollback_goes_to_the_version_that_was_tested_or_nowhere(device, register, monkeypatch):
    for _ in range(2):
        promoted(device, register())
    register()
    monkeypatch.setattr(moving, "_check_unchanged", lambda seen: production.promote(f"adaptf-{device}", "3"))
    with pytest.raises(
        UserError, match=f"adaptf-{device} goes back to version 2 by now, no longer to version 1"
    ):
        rolled_back(device)
    assert now(device) == "3"


def test_what_was_refused_leaves_no_folder(device, register):
    number = register(**{"adaptf.relative_loss": "1.2"})
    before = work_folders()
    with pytest.raises(UserError):
        promoted(device, number)
    with pytest.raises(UserError):
        rolled_back(device)
    assert work_folders() == before


def work_folders() -> set[Path]:
    return {path for path in Path(os.environ["ADAPTF_WORK"]).iterdir() if path.is_dir()}


def test_a_rollback_names_its_device():
    with pytest.raises(UserError, match="give the device whose model goes back"):
        rolled_back("none")


def test_all_goes_back_where_there_is_something_to_go_back_to(device, register, monkeypatch):
    for _ in range(2):
        promoted(device, register())
    (own,) = [model for model in production.models() if model.name == f"adaptf-{device}"]
    fresh = mlflow.MlflowClient().create_registered_model(f"adaptf-{device}-fresh")
    monkeypatch.setattr(production, "models", lambda: [own, fresh])
    rolled_back("all")
    assert now(device) == "1"
    with pytest.raises(UserError, match="has a version to go back to"):
        rolled_back("all")


@pytest.fixture(scope="module")
def router(experiment: str, bundle: Path) -> str:
    """The URI of a router with adaptf-a/1, adaptf-b/2 and adaptf-unknown/3."""
    with mlflow.start_run(experiment_id=experiment):
        return router_model.log_router(bundle, "adaptf-router")


@pytest.fixture
def no_router_left() -> Iterator[None]:
    """The tests after this one have none in production."""
    yield
    mlflow.MlflowClient().delete_registered_model("adaptf-router")


def logged_bundle(folder: Path, experiment: str) -> str:
    with mlflow.start_run(experiment_id=experiment):
        return router_model.log_router(folder, "adaptf-alone")


def test_a_router_is_as_good_as_the_models_in_it(
    router, experiment, make_bundle, scenes, device, register, real_self_test, no_router_left
):
    version = registry.register(router, "adaptf-router", tags={}, description="")
    with pytest.raises(
        UserError, match="the router holds adaptf-a version 1, which is not registered any more"
    ):
        promoted("router", version)
    for held, versions in (("a", 1), ("b", 2), ("unknown", 3)):
        uri = logged_bundle(make_bundle("unknown", network_of=held), experiment)
        for _ in range(versions):
            registry.register(uri, f"adaptf-{held}", tags=GOOD, description="")
    client = mlflow.MlflowClient()
    client.set_model_version_tag("adaptf-b", "2", "adaptf.macs", "30740608")
    with pytest.raises(
        UserError, match="nothing was promoted:\n  adaptf-b version 2: 30,740,608 MACs, at most"
    ):
        promoted("router", version, force=True, reason="why not")
    client.set_model_version_tag("adaptf-b", "2", "adaptf.macs", "29419648")
    client.set_model_version_tag("adaptf-b", "2", "adaptf.relative_loss", "3")
    with pytest.raises(
        UserError, match="nothing was promoted:\n  adaptf-b version 2: 3 percent relative loss"
    ):
        promoted("router", version)
    client.set_model_version_tag("adaptf-b", "2", "adaptf.relative_loss", "0.5")
    promoted("router", version)
    assert now("router") == version
    other_order = register(uri=logged_bundle(make_bundle("unknown", scenes=scenes[::-1]), experiment))
    with pytest.raises(
        UserError,
        match=rf"adaptf-{device} version 1 can't stand in adaptf-router version {version}: its scenes",
    ):
        promoted(device, other_order, force=True, reason="why not")
    promoted(device, register())
    assert now(device) == "2"


def test_a_model_that_is_compared_twice_keeps_both_differences():
    ten, twenty = (
        paired_bootstrap([predictions(right)], [predictions(0.9)], draws=100) for right in (0.8, 0.7)
    )
    alone = Comparison("adaptf-a", "3", "2", 160, ten)
    metrics = stage.difference_metrics(
        [alone, replace(alone, former="1", difference=twenty), Comparison("adaptf-b", "1", None)]
    )
    assert metrics["difference mean/adaptf-a"] == pytest.approx(10)
    assert metrics["difference mean/adaptf-a 3 against 1"] == pytest.approx(20)
    assert len(metrics) == 6
    with mlflow.start_run():
        mlflow.log_metrics(metrics)


def test_a_version_needs_a_device():
    with pytest.raises(UserError, match="version 3 needs a device"):
        promoted("all", "3")
    with pytest.raises(
        UserError, match="there is nothing to promote: give a register_run, or a device and a version"
    ):
        promoted("all", "registered")


def test_a_version_that_no_server_has_shadowed_is_refused_unless_forced(device, register, page_server):
    promoted(device, register(), shadow_servers=page_server({"devices": {}}), shadow_clips=9)
    number, asked = register(), {"shadow_servers": page_server({"devices": {}}), "shadow_clips": 9}
    with pytest.raises(UserError) as refused:
        promoted(device, number, **asked)
    said = f"adaptf-{device} version 2 beside version 1: shadowed for 0 clips, 0 errors"
    assert f"  {said}; at least 9 clips are asked for (has it the alias 'shadow'?)" in str(refused.value)
    run = promoted(device, number, **asked, force=True, reason="nobody asks this device")
    assert said in mlflow.get_run(run).data.tags["mlflow.note.content"]
    assert now(device) == "2"


@pytest.mark.parametrize(
    "asked", [{"shadow_clips": 9}, {"shadow_servers": "http://127.0.0.1:9"}, {"shadow_agreement": 0.9}]
)
def test_a_gate_of_which_only_a_part_is_said_is_refused_at_once(asked, device, monkeypatch):
    monkeypatch.setattr(gates, "judge", None)
    with pytest.raises(UserError, match=r"^shadow_servers and shadow_clips belong together"):
        promoted(device, "1", **asked)
