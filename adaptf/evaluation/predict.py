"""Logits of a set of clips, in batches."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from adaptf.data.clip_set import ClipSet
from adaptf.data.loader import clip_loader


def predict_logits(
    model: Callable[[Tensor], Tensor],
    clips: ClipSet,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    name: str = "",
) -> NDArray[np.float32]:
    """(clips, classes) in the order of the set; `model` takes waveforms (batch, samples) on `device`."""
    loader = clip_loader(clips, batch_size=batch_size, shuffle=False, shared=False)
    with torch.no_grad():
        batches = [
            model(batch.x.to(device)).float().cpu().numpy()
            for batch in tqdm(loader, name or "predicting", unit="batch", delay=3, mininterval=1)
        ]
    return np.concatenate(batches) if batches else np.zeros((0, clips.targets.shape[1]), dtype=np.float32)


def inference_device(accelerator: str) -> torch.device:
    """The device that Lightning's `accelerator` setting stands for."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda")
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return torch.device("mps")
    return torch.device("cpu")
