"""The routing self-test finds a bundle or a router that sends clips to the wrong network."""

import json

from adaptf.promotion.self_test import routing_problems
from adaptf.serving import bundle as bundle_module
from adaptf.serving.bundle import write_sums


def test_a_bundle_that_routes_as_it_should_has_no_problems(bundle, make_bundle):
    assert routing_problems(bundle) == []
    assert routing_problems(make_bundle("unknown")) == []


def test_devices_that_are_answered_by_another_model_are_named(bundle, monkeypatch):
    monkeypatch.setattr(bundle_module.Bundle, "device_used", lambda self, device: "a")
    problems = routing_problems(bundle)
    assert "a clip of device 'b' is answered by 'a' (adaptf-a/1) instead of 'b' (adaptf-b/2)" in problems
    assert (
        "a clip of device None is answered by 'a' (adaptf-a/1) instead of 'unknown' (adaptf-unknown/3)"
        in problems
    )


def test_names_that_are_only_alike_are_tried(bundle, monkeypatch):
    def tolerant(self, device):
        name = (device or "").lower()
        return name if name in self.models else "unknown"

    monkeypatch.setattr(bundle_module.Bundle, "device_used", tolerant)
    asked = [problem.split("'")[1] for problem in routing_problems(bundle)]
    assert asked == ["A", " a", "a ", "B", " b", "b "]


def test_a_bundle_that_cannot_be_read_is_one_problem(make_bundle, tmp_path):
    assert ["no bundle" in problem for problem in routing_problems(tmp_path)] == [True]
    damaged = make_bundle("a", "unknown")
    (damaged / "unknown.pt2").write_bytes(b"")
    write_sums(damaged)
    assert ["no complete .pt2 file" in problem for problem in routing_problems(damaged)] == [True]
    empty = make_bundle("unknown")
    (empty / "router.json").write_text(json.dumps([]))
    write_sums(empty)
    assert ["no bundle" in problem for problem in routing_problems(empty)] == [True]


def test_a_damaged_file_is_found_behind_an_openvino_form_that_serves(make_bundle):
    """The fixture's network of device a has both forms."""
    damaged = make_bundle("a", "unknown")
    (damaged / "a.pt2").write_bytes(b"")
    write_sums(damaged)
    assert ["a.pt2 is no complete .pt2 file" in problem for problem in routing_problems(damaged)] == [True]
