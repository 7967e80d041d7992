"""What a linear model says of the device that recorded a sound, and how it is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptf.models.device_from_sound import DeviceFromSound, band_statistics

pytestmark = pytest.mark.arithmetic

BANDS = 8
SHAPES = torch.randn(3, BANDS - 1, generator=torch.Generator().manual_seed(0))
"""Of three devices: differences of neighbouring bands."""
WEIGHTS = torch.cat([3 * SHAPES, torch.zeros(3, BANDS)], dim=1)
MODEL = DeviceFromSound(["a", "b", "s1"], 0.9, WEIGHTS, -1.5 * SHAPES.square().sum(dim=1))
"""Says the nearest one of them."""


def clips_of(device: int, *, clips: int = 4, level: float = 0.0) -> torch.Tensor:
    """Log-mels that differ from each other and have the device's shape."""
    noise = torch.randn(clips, 1, BANDS, 16, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean(dim=3, keepdim=True)
    shape = torch.cat([torch.zeros(1), SHAPES[device].cumsum(dim=0)])
    return noise + shape[:, None] + level


def test_statistics_are_the_steps_between_bands_and_their_deviations() -> None:
    log_mel = torch.tensor([[[[1.0, 3.0], [5.0, 5.0], [4.0, 8.0]]]])
    torch.testing.assert_close(
        band_statistics(log_mel), torch.tensor([[3.0, 1.0, 2**0.5, 0.0, 8**0.5]]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(("place", "device"), enumerate(MODEL.devices))
def test_a_device_is_told_by_its_response_whatever_the_level(place: int, device: str) -> None:
    assert MODEL.tell(clips_of(place)) == device
    assert MODEL.tell(clips_of(place, level=-2.0)) == device


def test_clips_that_tell_of_two_devices_tell_of_none() -> None:
    both = torch.cat([clips_of(0), clips_of(1)])
    assert MODEL.probabilities(both).argmax(dim=1).tolist() == [0] * 4 + [1] * 4
    assert MODEL.tell(both) is None


def test_nothing_is_told_at_or_below_the_threshold() -> None:
    probability = float(MODEL.probabilities(clips_of(2)).mean(dim=0).max())
    assert replace(MODEL, threshold=probability).tell(clips_of(2)) is None
    assert replace(MODEL, threshold=probability - 1e-6).tell(clips_of(2)) == "s1"


def test_it_is_read_as_it_was_written_for_as_many_bands_alone(tmp_path: Path) -> None:
    MODEL.write(tmp_path / "model.json")
    read = DeviceFromSound.read(tmp_path / "model.json", bands=BANDS)
    assert (read.devices, read.threshold) == (MODEL.devices, MODEL.threshold)
    assert torch.equal(read.probabilities(clips_of(0)), MODEL.probabilities(clips_of(0)))
    with pytest.raises(ValueError, match=r"model\.json is not for 3 devices and 64 bands"):
        DeviceFromSound.read(tmp_path / "model.json", bands=64)
