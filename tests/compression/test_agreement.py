"""How far logits lie apart, and the clips that lie beside a network."""

from pathlib import Path

import pytest
import torch

from adaptf.compression.agreement import Agreement, Reference, agreement, read_reference, save_reference
from adaptf.errors import UserError


def test_equal_logits_agree_wholly() -> None:
    logits = torch.randn(5, 3)
    assert agreement(logits, logits) == Agreement(0.0, 1.0)


def test_an_error_is_relative_to_the_spread_of_the_others_logits() -> None:
    others = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    found = agreement(others + torch.tensor([[1.0, -1.0], [0.0, 0.0]]), others)
    assert found.logit_error == pytest.approx((0.5**0.5) / 2)
    assert found.same_scene == 1.0
    assert agreement(torch.tensor([[2.0, -2.0], [3.0, 2.0]]), others).same_scene == 0.5


def test_logits_that_are_all_alike_have_no_spread_and_any_difference_is_large() -> None:
    assert agreement(torch.zeros(2, 3), torch.zeros(2, 3)).logit_error == 0
    assert agreement(torch.ones(2, 3), torch.zeros(2, 3)).logit_error > 1e6


def test_clips_beside_a_network_come_back_as_they_were(tmp_path: Path) -> None:
    kept = Reference(torch.randn(4, 1, 8, 8).half().float(), torch.randn(4, 3))
    assert read_reference(tmp_path / "a.pt2") is None
    save_reference(kept, tmp_path / "a.pt2")
    found = read_reference(tmp_path / "a.pt2")
    assert found is not None
    assert torch.equal(found.logmel, kept.logmel) and torch.equal(found.logits, kept.logits)


def test_clips_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"a\.npz holds no clips to try a network with"):
        read_reference(tmp_path / "a.pt2")
