"""Random draws on their way from the processor that makes them to the device that applies them."""

import torch
from torch import Tensor


def moved(draw: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device;
    unlike Tensor.to it does not wait until a GPU has done all that it was given."""
    return draw.to(device, non_blocking=device.type == "cuda")
