"""Log-mels of one device as another would have them."""

import pytest
import torch
from torch import Tensor

from adaptf.audio.band_matching import LARGEST_FACTOR, BandMoments

pytestmark = pytest.mark.arithmetic

BANDS, FRAMES = 4, 50
COLOUR = torch.tensor([3.0, -2.0, 0.5, 0.0])
CONTRAST = torch.tensor([1.5, 0.8, 1.0, 1.2])


def scene_of(clips: int, *, loudness: float, seed: int) -> Tensor:
    """Log-mels (clips, 1, bands, frames)."""
    return loudness + torch.randn(clips, 1, BANDS, FRAMES, generator=torch.Generator().manual_seed(seed))


def through_device(logmel: Tensor) -> Tensor:
    return logmel * CONTRAST[:, None] + COLOUR[:, None]


def moments(*parts: tuple[Tensor, int, int]) -> BandMoments:
    """Of (log-mels, device, scene)."""
    found = BandMoments(devices=3, scenes=2, bands=BANDS)
    for logmel, device, scene in parts:
        found.add(logmel, torch.full((len(logmel),), device), torch.full((len(logmel),), scene))
    return found


def test_clips_are_brought_to_what_the_other_device_makes_of_them() -> None:
    quiet, loud = scene_of(30, loudness=-5.0, seed=0), scene_of(30, loudness=4.0, seed=1)
    matching = moments(
        (quiet, 0, 0), (loud, 0, 1), (through_device(quiet), 1, 0), (through_device(loud), 1, 1)
    ).matching(1)
    torch.testing.assert_close(
        matching(quiet, torch.zeros(30, dtype=torch.int64)), through_device(quiet), atol=1e-3, rtol=0
    )


def test_the_devices_own_clips_stay_as_they_are() -> None:
    logmel = scene_of(20, loudness=1.0, seed=2)
    matching = moments((logmel, 0, 0), (through_device(logmel), 1, 0)).matching(1)
    torch.testing.assert_close(matching(logmel, torch.ones(20, dtype=torch.int64)), logmel, atol=1e-5, rtol=0)


def test_a_device_that_heard_loud_scenes_more_often_is_not_taken_for_a_loud_device() -> None:
    quiet, loud = scene_of(10, loudness=-5.0, seed=3), scene_of(200, loudness=4.0, seed=4)
    matching = moments((quiet, 0, 0), (loud[:5], 0, 1), (quiet, 1, 0), (loud, 1, 1)).matching(1)
    assert matching.offset[0].abs().max() < 0.5
    assert (matching.factor[0] - 1).abs().max() < 0.1


def test_scenes_that_only_one_device_heard_say_nothing_of_it() -> None:
    quiet, loud = scene_of(40, loudness=-5.0, seed=5), scene_of(40, loudness=40.0, seed=6)
    matching = moments((quiet, 0, 0), (quiet, 1, 0), (loud, 1, 1)).matching(1)
    torch.testing.assert_close(matching(quiet, torch.zeros(40, dtype=torch.int64)), quiet, atol=1e-4, rtol=0)


def test_a_device_without_a_scene_in_common_stays_as_it_is() -> None:
    matching = moments(
        (scene_of(5, loudness=0.0, seed=7), 0, 0), (scene_of(5, loudness=9.0, seed=8), 1, 1)
    ).matching(1)
    assert torch.equal(matching.factor[0], torch.ones(BANDS))
    assert torch.equal(matching.offset[0], torch.zeros(BANDS))


def test_a_band_that_is_nearly_still_is_not_blown_up() -> None:
    still = scene_of(10, loudness=0.0, seed=9)
    still[:, :, 0] = -10.0
    matching = moments((still, 0, 0), (scene_of(10, loudness=0.0, seed=10), 1, 0)).matching(1)
    assert matching.factor[0, 0] == LARGEST_FACTOR


def test_batch_by_batch_gives_the_same_as_all_at_once() -> None:
    logmel = scene_of(12, loudness=2.0, seed=11)
    whole = moments((logmel, 0, 0), (logmel + 1, 1, 0)).matching(1)
    parts = moments((logmel[:5], 0, 0), (logmel + 1, 1, 0), (logmel[5:], 0, 0)).matching(1)
    torch.testing.assert_close(whole.offset, parts.offset)
    torch.testing.assert_close(whole.factor, parts.factor)
