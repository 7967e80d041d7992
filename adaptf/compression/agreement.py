"""How far two networks' logits of the same clips lie apart,
and clips to try a saved network with wherever it is loaded."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adaptf.errors import UserError
from adaptf.files import write_atomically

REFERENCE_SUFFIX = ".npz"
REFERENCE_CLIPS = 16


@dataclass(frozen=True)
class Agreement:
    """Of one network with another."""

    logit_error: float
    """Root mean square of the differences between logits,
    relative to the standard deviation of the other's."""
    same_scene: float
    """Share of the clips on which the largest logit is that of the same scene."""


def agreement(logits: Tensor, others: Tensor) -> Agreement:
    """Of logits (clips, scenes) with another network's of the same clips."""
    spread = others.std(correction=0).clamp(min=torch.finfo(others.dtype).tiny)
    return Agreement(
        logit_error=float((logits - others).square().mean().sqrt() / spread),
        same_scene=float((logits.argmax(dim=1) == others.argmax(dim=1)).double().mean()),
    )


@dataclass(frozen=True)
class Reference:
    """Clips, and what the .pt2 file said of them where it was made."""

    logmel: Tensor
    """(clips, 1, bands, frames), of FP16 values."""
    logits: Tensor
    """(clips, scenes)"""


def save_reference(reference: Reference, path: Path) -> None:
    """Writes it beside a .pt2 file."""
    written = io.BytesIO()
    np.savez_compressed(written, logmel=reference.logmel.half().numpy(), logits=reference.logits.numpy())
    write_atomically(path.with_suffix(REFERENCE_SUFFIX), written.getvalue())


def read_reference(path: Path) -> Reference | None:
    """What lies beside a .pt2 file; None where there is nothing. Raises UserError where it can't be read."""
    file = path.with_suffix(REFERENCE_SUFFIX)
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as held:
            found = Reference(
                torch.from_numpy(held["logmel"]).float(), torch.from_numpy(held["logits"]).float()
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{file} holds no clips to try a network with: {type(error).__name__}: {error}"
        ) from error
    if found.logmel.ndim != 4 or found.logits.ndim != 2 or not 0 < len(found.logmel) == len(found.logits):
        shapes = f"{tuple(found.logmel.shape)} and {tuple(found.logits.shape)}"
        raise UserError(
            f"{file} should hold log-mels (clips, 1, bands, frames) and logits (clips, scenes), got {shapes}"
        )
    if not (found.logmel.isfinite().all() and found.logits.isfinite().all()):
        raise UserError(f"{file} holds numbers that are not finite")
    return found
