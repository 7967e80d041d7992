"""Promoting, rolling back and resolving on a real MLflow registry."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

from adaptf.errors import UserError
from adaptf.tracking import production
from adaptf.tracking.candidates import candidates
from adaptf.tracking.production import ALIAS, HISTORY, NoProductionVersion
from adaptf.tracking.registry import BUNDLE_HASH

pytestmark = pytest.mark.slow

Make = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def store(database: Path, tracked) -> Iterator[None]:
    with tracked(f"sqlite:///{database}"):
        yield


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Name of a new registered model with so many versions,
    the first of them promoted one after the other."""

    def make_model(versions: int, *, promoted: int = 0, name: str = "") -> str:
        name = name or f"adaptf-{request.node.name.removeprefix('test_')}"
        client = mlflow.MlflowClient()
        client.create_registered_model(name)
        for _ in range(versions):
            client.create_model_version(name, source=str(tmp_path))
        for version in range(1, promoted + 1):
            production.promote(name, str(version))
        return name

    return make_model


def stage_by_hand(name: str, number: str, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mlflow.MlflowClient().transition_model_version_stage(name, number, stage)


def alias_by_hand(name: str, number: str) -> None:
    mlflow.MlflowClient().set_registered_model_alias(name, ALIAS, number)


def delete(name: str, number: str) -> None:
    mlflow.MlflowClient().delete_model_version(name, number)


def history(name: str) -> list[str]:
    return json.loads(mlflow.MlflowClient().get_registered_model(name).tags[HISTORY])


def stages(name: str) -> dict[int, str | None]:
    return {found.version: found.tags.get("stage") for found in production.versions_of(name)}


def test_promotion_sets_alias_tag_and_stage_without_a_warning(make):
    name = make(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        production.promote(name, "1")
    found = mlflow.MlflowClient().get_model_version(name, "1")
    assert (found.aliases, found.tags["stage"], found.current_stage) == (
        ["production"],
        "Production",
        "Production",
    )
    assert production.resolve_production(name) == "1"


def test_promotion_archives_the_former_version_and_can_be_repeated(make):
    name = make(3, promoted=2)
    production.promote(name, "2")
    former, latter, other = sorted(production.versions_of(name), key=lambda found: int(found.version))
    assert (former.tags["stage"], former.current_stage) == ("Archived", "Archived")
    assert (latter.tags["stage"], latter.current_stage) == ("Production", "Production")
    assert "stage" not in other.tags
    assert (production.resolve_production(name), history(name)) == ("2", ["1", "2"])


def test_rolling_back_sets_alias_tag_and_stage_as_promoting_does(make):
    name = make(2, promoted=2)
    assert production.roll_back(name) == "1"
    found = mlflow.MlflowClient().get_model_version(name, "1")
    assert (found.aliases, found.tags["stage"], found.current_stage) == (
        ["production"],
        "Production",
        "Production",
    )
    assert stages(name) == {1: "Production", 2: "Archived"}
    assert production.resolve_production(name) == "1"


def test_two_rollbacks_undo_two_promotions_and_a_third_is_refused(make):
    name = make(3, promoted=3)
    assert [production.roll_back(name), production.roll_back(name)] == ["2", "1"]
    with pytest.raises(
        UserError, match=f"{name} has no version to go back to: version 1 is in production, and none"
    ):
        production.roll_back(name)
    assert production.resolve_production(name) == "1"


def test_after_a_rollback_a_promotion_goes_on_from_there(make):
    name = make(3, promoted=2)
    production.roll_back(name)
    production.promote(name, "3")
    assert history(name) == ["1", "3"]
    assert production.roll_back(name) == "1"


def test_a_version_that_was_promoted_twice_is_gone_back_to_twice(make):
    name = make(2, promoted=2)
    production.promote(name, "1")
    assert [production.roll_back(name), production.roll_back(name)] == ["2", "1"]


@pytest.mark.parametrize("by", [ALIAS, "stage"])
def test_a_promotion_by_hand_is_rolled_back_to_what_was_there_before(by, make):
    name = make(3, promoted=2, name=f"adaptf-by-hand-{by}")
    if by == ALIAS:
        alias_by_hand(name, "3")
    else:
        mlflow.MlflowClient().delete_registered_model_alias(name, ALIAS)
        stage_by_hand(name, "3", "Production")
    assert production.resolve_production(name) == "3"
    assert [production.roll_back(name), production.roll_back(name)] == ["2", "1"]


def test_what_was_promoted_by_hand_is_gone_back_to(make):
    name = make(4, promoted=2)
    alias_by_hand(name, "3")
    production.promote(name, "4")
    assert history(name) == ["1", "2", "3", "4"]
    assert [production.roll_back(name) for _ in range(3)] == ["3", "2", "1"]


def test_the_first_promotion_keeps_what_was_there_by_hand(make):
    name = make(2)
    stage_by_hand(name, "1", "Production")
    production.promote(name, "2")
    assert production.roll_back(name) == "1"


def test_a_rollback_goes_nowhere_but_to_the_version_that_is_expected(make):
    name = make(3, promoted=3)
    with pytest.raises(
        UserError, match=f"{name} goes back to version 2 by now, no longer to version 1: somebody changed"
    ):
        production.roll_back(name, "1")
    assert (production.resolve_production(name), history(name)) == ("3", ["1", "2", "3"])
    assert production.roll_back(name, "2") == "2"


def test_a_deleted_version_is_passed_over(make):
    name = make(3, promoted=3)
    delete(name, "2")
    assert production.roll_back(name) == "1"


def test_where_the_version_in_production_was_deleted_the_one_before_takes_its_place(make):
    name = make(2, promoted=2)
    delete(name, "2")
    assert production.production_or_none(name) is None
    assert production.roll_back(name) == "1"


def test_a_rollback_never_goes_to_what_is_there(make):
    name = make(2, promoted=2)
    production.promote(name, "1")
    delete(name, "2")
    with pytest.raises(UserError, match="none that is still there was before it"):
        production.roll_back(name)


def test_nothing_is_rolled_back_where_nothing_was_promoted(make):
    name = make(1)
    for absent in (name, "adaptf-nobody"):
        with pytest.raises(UserError, match=f"{absent} has no version to go back to: none was in production"):
            production.roll_back(absent)


def test_a_history_that_was_edited_is_named(make):
    name = make(2, promoted=1)
    mlflow.MlflowClient().set_registered_model_tag(name, HISTORY, "one, two")
    with pytest.raises(
        UserError, match=rf"the tag {HISTORY} of {name} is 'one, two': it should be a list of versions"
    ):
        production.promote(name, "2")


@pytest.mark.parametrize(
    "step", ["set_registered_model_alias", "move_to_production_stage", "set_model_version_tag"]
)
def test_a_promotion_that_breaks_off_has_been_or_has_not_by_its_alias_and_can_be_repeated(
    step, make, monkeypatch
):
    name = make(3, promoted=2, name=f"adaptf-broken-{step}")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(production if step.startswith("move") else mlflow.MlflowClient, step, power_cut)
        production.promote(name, "3")
    before = step == "set_registered_model_alias"
    assert production.resolve_production(name) == ("2" if before else "3")
    assert production.previous_version(name) == ("1" if before else "2")
    production.promote(name, "3")
    assert stages(name) == {1: "Archived", 2: "Archived", 3: "Production"}
    assert (production.resolve_production(name), history(name)) == ("3", ["1", "2", "3"])


def test_a_rollback_that_breaks_off_can_be_repeated(make, monkeypatch):
    name = make(3, promoted=3)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", power_cut)
        production.roll_back(name)
    assert production.resolve_production(name) == "3"
    assert [production.roll_back(name), production.roll_back(name)] == ["2", "1"]


def test_a_promotion_that_breaks_off_before_its_last_word_is_rolled_back_like_any(make, monkeypatch):
    name = make(2, promoted=1)
    writes = iter([production.write_history, power_cut])
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(production, "write_history", lambda *given: next(writes)(*given))
        production.promote(name, "2")
    assert production.resolve_production(name) == "2"
    assert production.roll_back(name) == "1"


def power_cut(*_: object, **__: object) -> None:
    raise RuntimeError("power cut")


def test_a_long_history_keeps_its_newest_part(make, monkeypatch):
    monkeypatch.setattr(production, "LONGEST_HISTORY", 3)
    name = make(5, promoted=5)
    assert history(name) == ["3", "4", "5"]


def test_a_stage_set_by_hand_is_resolved(make):
    name = make(2)
    stage_by_hand(name, "1", "Production")
    assert production.resolve_production(name) == "1"


def test_the_alias_goes_before_the_stage(make):
    name = make(2, promoted=1)
    stage_by_hand(name, "2", "Production")
    assert production.resolve_production(name) == "1"


def test_all_models_in_production_are_told_by_one_request(make, monkeypatch):
    by_alias, by_stage = make(2, promoted=2, name="adaptf-all-a"), make(2, name="adaptf-all-b")
    make(1, name="adaptf-all-idle"), make(1, promoted=1, name="others-model")
    stage_by_hand(by_stage, "1", "Production")
    requests = []
    search = mlflow.MlflowClient.search_registered_models
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "search_registered_models",
        lambda *given, **named: requests.append(1) or search(*given, **named),
    )
    found = production.in_production()
    assert {name: version for name, version in found.items() if "all" in name} == {
        by_alias: "2",
        by_stage: "1",
    }
    assert "others-model" not in found
    assert len(requests) == 1


def test_what_is_in_production_is_told_with_the_hash_of_its_bundle_by_one_request(make, monkeypatch):
    by_alias, by_hand = make(2, promoted=2, name="adaptf-hash-a"), make(2, promoted=2, name="adaptf-hash-b")
    alias_by_hand(by_hand, "1")
    for name, number in ((by_alias, "2"), (by_hand, "1")):
        mlflow.MlflowClient().set_model_version_tag(name, number, BUNDLE_HASH, f"hash {name}")
    more = []
    get = mlflow.MlflowClient.get_model_version
    monkeypatch.setattr(
        mlflow.MlflowClient, "get_model_version", lambda *given: more.append(given[1]) or get(*given)
    )
    found = production.promoted()
    assert [found[name] for name in (by_alias, by_hand)] == [
        ("2", f"hash {by_alias}"),
        ("1", f"hash {by_hand}"),
    ]
    assert by_alias not in more


def test_candidates_are_the_versions_with_the_alias_shadow_with_the_hash_of_their_bundles(make):
    name = make(2, promoted=2, name="adaptf-candidate")
    mlflow.MlflowClient().set_registered_model_alias(name, "shadow", "1")
    mlflow.MlflowClient().set_model_version_tag(name, "1", BUNDLE_HASH, "its hash")
    assert {name: found for name, found in candidates().items() if "candidate" in name} == {
        name: ("1", "its hash")
    }


def test_no_version_in_production_is_a_clear_error(make):
    name = make(2, name="adaptf-idle")
    store = re.escape(mlflow.get_registry_uri())
    told = f"'adaptf-idle' is in production: in {store} none has the alias 'production'"
    with pytest.raises(NoProductionVersion, match=rf"{told} \(versions: 2, 1\); promote one"):
        production.resolve_production(name)
    with pytest.raises(NoProductionVersion, match=r"'adaptf-never' .* \(versions: none\); first register"):
        production.resolve_production("adaptf-never")


def test_a_version_that_does_not_exist_is_not_promoted(make):
    with pytest.raises(UserError, match=r"no version '7'; there are \['1', '2'\]"):
        production.promote(make(2), "7")


def gone_from_the_server(*_: object, **__: object) -> None:
    raise MlflowException("API request failed with error code 404", error_code=ENDPOINT_NOT_FOUND)


@pytest.mark.parametrize("name", ["adaptf-client-without", "adaptf-server-without"])
def test_promotion_and_rollback_work_where_stages_are_gone(name, make, monkeypatch):
    make(2, name=name)
    if name == "adaptf-client-without":
        monkeypatch.delattr(mlflow.MlflowClient, "transition_model_version_stage")
    else:
        monkeypatch.setattr(mlflow.MlflowClient, "transition_model_version_stage", gone_from_the_server)
    production.promote(name, "1")
    production.promote(name, "2")
    assert production.resolve_production(name) == "2"
    assert production.roll_back(name) == "1"
    assert stages(name) == {1: "Production", 2: "Archived"}
