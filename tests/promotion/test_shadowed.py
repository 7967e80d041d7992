"""The gate for shadowed clips: what servers tell of these very versions, and what is too little."""

from collections.abc import Callable
from typing import Any

import pytest

from adaptf.promotion import shadowed as gate_module
from adaptf.promotion.shadowed import ShadowGate, shadowed

ENTRY: dict[str, Any] = {
    "version": "adaptf-a/2", "sha256": "two", "production": "adaptf-a/1", "production_sha256": "one",
    "clips": 400, "agreed": 380, "errors": 3,
    "changed": [{"scene": "tram", "shadow_scene": "bus", "clips": 20}],
}  # fmt: skip
WORDS = "adaptf-a version 2 beside version 1: shadowed for"
NOTHING = f"{WORDS} 0 clips, 0 errors"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 of a's model is in production; the hashes of the bundles are known."""
    hashes = {"1": "one", "2": "two"}
    monkeypatch.setattr(gate_module, "tags_of", lambda _, version: {"adaptf.bundle": hashes[version]})
    monkeypatch.setattr(
        gate_module.production, "production_or_none", lambda name: "1" if name == "adaptf-a" else None
    )


@pytest.fixture
def tells(page_server) -> Callable[..., str]:
    """Address of a server that tells of version 2 beside version 1, but for what is changed."""
    return lambda **changed: page_server({"devices": {"a": ENTRY | changed}})


def judged(
    *servers: str, clips: int = 400, agreement: float = 0.0, version: str = "2"
) -> tuple[list[str], list[str]]:
    return shadowed(ShadowGate(servers, clips, agreement), [("adaptf-a", version)])


def test_what_several_servers_have_seen_counts_together(tells):
    found, problems = judged(tells(), f"{tells()}/", clips=800, agreement=0.95)
    assert found == [f"{WORDS} 800 clips, with the same scene for 95.00%, 6 errors; tram became bus 40 times"]
    assert not problems


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"clips": 401}, "at least 401 clips are asked for"),
        ({"agreement": 0.951}, "the same scene is asked for in at least 95.10%"),
    ],
)
def test_too_few_clips_or_too_little_agreement_is_told_with_the_figures(asked, why, tells):
    (problem,) = judged(tells(), **asked)[1]
    assert problem == (
        f"{WORDS} 400 clips, with the same scene for 95.00%, 3 errors; tram became bus 20 times; {why}"
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "adaptf-a/3"},
        {"version": "adaptf-b/2"},
        {"sha256": "of one that was deleted and registered again"},
        {"production": "adaptf-a/0"},
        {"production_sha256": "of one that was deleted and registered again"},
    ],
)
def test_clips_of_other_versions_do_not_count(changed, tells):
    found, problems = judged(tells(**changed), clips=1)
    assert found == [NOTHING]
    assert problems == [f"{NOTHING}; at least 1 clips are asked for (has it the alias 'shadow'?)"]


@pytest.mark.parametrize(
    "page",
    [
        [],
        {},
        {"devices": {"a": {}}},
        {"devices": {"a": ENTRY | {"clips": "400"}}},
        {"devices": {"a": ENTRY | {"changed": None}}},
    ],
)
def test_a_page_that_is_none_is_named_and_what_others_tell_still_counts(page, page_server, tells):
    broken = page_server(page)
    found, (problem, *others) = judged(broken, tells())
    assert found[0].startswith(f"{WORDS} 400 clips") and not others
    assert problem.startswith(f"{broken}/shadow does not tell what was shadowed")


def test_a_server_that_is_away_or_an_address_that_is_none_is_named():
    _, problems = judged("http://127.0.0.1:9", "localhost", clips=1)
    assert [problem.partition(" does not tell")[0] for problem in problems[:2]] == [
        "http://127.0.0.1:9/shadow",
        "localhost/shadow",
    ]


def test_nothing_is_asked_of_a_version_in_production_or_of_one_that_takes_nobody_s_place(tells):
    assert judged(tells(), version="1") == ([], [])
    assert shadowed(ShadowGate([tells()], 1, 0.0), [("adaptf-new", "1")]) == ([], [])
