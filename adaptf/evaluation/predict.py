"""Logits of a set of clips, in batches."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from adaptf.audio.cores import in_parts
from adaptf.data.batch import ClipBatch, WaveformBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.sources import even_batches


def predict_logits(
    model: Callable[[Tensor], Tensor],
    clips: ClipSet,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    name: str = "",
) -> NDArray[np.float32]:
    """(clips, classes) in the order of the set.

    `model` takes what the set's batches hold, on `device`:
    waveforms (batch, samples), or features where they are kept. On a CPU several threads call it, each with a
    few clips.
    """
    rows = tqdm(
        even_batches(np.arange(len(clips)), batch_size),
        name or "predicting",
        unit="batch",
        delay=3,
        mininterval=1,
    )
    with torch.no_grad():
        batches = [in_parts(model, _inputs(clips[some]).to(device)).float().cpu().numpy() for some in rows]
    return np.concatenate(batches) if batches else np.zeros((0, clips.targets.shape[1]), dtype=np.float32)


def _inputs(batch: ClipBatch) -> Tensor:
    return batch.waveforms if isinstance(batch, WaveformBatch) else batch.features


def inference_device(accelerator: str) -> torch.device:
    """The device that Lightning's `accelerator` setting stands for."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", 0)  # as Lightning calls it
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return torch.device("mps")
    return torch.device("cpu")
