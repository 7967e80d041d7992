"""Candidates beside production: what is loaded of what has the alias, and what is said about the rest."""

import json
import logging

import pytest
from fixtures.shadow import bundle_of, of_a, saying

from adaptf.serving.bundle import BundleError
from adaptf.serving.candidates import Candidates
from adaptf.serving.live import Follower


@pytest.fixture
def candidates(candidacies) -> Candidates:
    """Beside models of a and of unknown."""
    models = {"a": saying("adaptf-a/1", "tram"), "unknown": saying("adaptf-unknown/1", "park")}
    follower = Follower(bundle_of(**models), check_seconds=60)
    return Candidates(follower, named=candidacies.candidates, download=candidacies.download)


def test_a_router_with_the_alias_stands_for_all_versions_in_it_and_a_device_s_own_counts_more(
    candidacies, candidates
):
    inside = {"a": saying("adaptf-a/2", "bus"), "unknown": saying("adaptf-unknown/2", "bus")}
    candidacies.name("adaptf-router", "2", bundle_of(**inside))
    candidacies.name("adaptf-unknown", "5", bundle_of(unknown=saying("", "metro")))
    candidates.look()
    candidates.look()
    versions = {device: model.version for device, model in candidates.models.items()}
    assert versions == {"a": "adaptf-a/2", "unknown": "adaptf-unknown/5"}
    assert candidacies.downloads == ["adaptf-router/2", "adaptf-unknown/5"]


def test_an_alias_that_is_taken_away_ends_it_and_a_registry_that_is_away_does_not(candidacies, candidates):
    candidacies.name("adaptf-a", "2", of_a("bus"))
    candidates.look()
    candidacies.error = OSError("away")
    candidates.look()
    assert list(candidates.models) == ["a"]
    candidacies.error, candidacies.named = None, {}
    candidates.look()
    assert not candidates.models


def test_a_version_of_a_device_without_a_model_is_not_even_fetched(candidacies, candidates):
    candidacies.name("adaptf-s9", "1", of_a("bus"))
    candidates.look()
    assert not candidates.models and not candidacies.downloads


def test_a_candidate_that_does_not_fit_is_told_once_and_not_fetched_at_every_look(
    candidacies, candidates, caplog
):
    candidacies.name("adaptf-a", "2", BundleError("it is damaged"))
    candidacies.name("adaptf-unknown", "2", bundle_of(a=saying("", "bus"), unknown=saying("", "bus")))
    with caplog.at_level(logging.INFO, "adaptf.router"):
        candidates.look()
        candidates.look()
    assert not candidates.models
    assert candidacies.downloads == ["adaptf-a/2", "adaptf-unknown/2"]
    assert [json.loads(record.getMessage())["message"] for record in caplog.records] == [
        "adaptf-a/2 cannot answer beside production: BundleError: it is damaged",
        "adaptf-unknown/2 cannot answer beside production: BundleError: it is a router for ['a', 'unknown'], "
        "not the model of one device",
    ]
    candidacies.name("adaptf-a", "3", of_a("bus"))
    candidates.look()
    assert list(candidates.models) == ["a"] and list(candidates.notes) == ["adaptf-unknown"]
