"""What a frozen encoder makes of clips:
computed once, kept in files, and trained on in place of the waveforms."""

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from adaptf.data.cache.shards import checksum
from adaptf.data.sources import CachedWaveforms, HeldFeatures
from adaptf.files import blocks_of, one_at_a_time, write_atomically

logger = logging.getLogger(__name__)

CLIPS_PER_BLOCK = 1024
"""An interrupted computation loses one block at most; of 768 values a clip it is a file of 3 MB."""


def cached_embeddings(
    encode: Callable[[Tensor], Tensor],
    clips: CachedWaveforms,
    keys: Sequence[str],
    *,
    folder: Path,
    encoder_digest: str,
    device: torch.device | str,
    batch_size: int = 64,
    name: str = "",
) -> HeldFeatures:
    """A row for each clip: read from `folder` where they are, computed and kept where they are not.

    `encode` takes waveforms (batch, samples) on `device` and returns (batch, dim); `encoder_digest` stands
    for all that decides its result. `keys` are the clips' keys in the waveform cache. Raises ValueError where
    there is not one for each clip, where parts of the clips are drawn at random,
    or where `encode` returns another shape.
    """
    if len(keys) != len(clips.cache_rows):
        raise ValueError(f"keys should be one for each of {len(clips.cache_rows)} clips, got {len(keys)}")
    if clips.sample.random:
        raise ValueError("embeddings of parts that are drawn at random can't be kept: random should be False")
    folder = folder / encoder_digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [np.zeros((0, 0), dtype=np.float32)] if not keys else []
    with (
        one_at_a_time(folder / "lock", f"computing the embeddings in {folder}"),
        tqdm(None, name or "embeddings", len(keys), unit="clip", delay=3, mininterval=1) as bar,
    ):
        for half_written in folder.glob(".*"):  # by a process that was killed
            half_written.unlink()
        for rows in blocks_of(range(len(keys)), CLIPS_PER_BLOCK):
            digest = _block_digest(clips, [keys[row] for row in rows], encoder_digest)
            block = _read_block(folder, digest, clips=len(rows))
            if block is None:
                batches = (clips.read(np.array(batch)).to(device) for batch in blocks_of(rows, batch_size))
                block = np.concatenate([_encode(encode, waveforms) for waveforms in batches])
                _write_block(folder, digest, block)
            blocks.append(block)
            bar.update(len(rows))
    return HeldFeatures(torch.from_numpy(np.concatenate(blocks)))


def _encode(encode: Callable[[Tensor], Tensor], waveforms: Tensor) -> NDArray[np.float32]:
    """(batch, dim)"""
    with torch.no_grad():
        embeddings = encode(waveforms)
    if embeddings.ndim != 2 or len(embeddings) != len(waveforms):
        raise ValueError(
            f"the encoder should return ({len(waveforms)} clips, dim), got {tuple(embeddings.shape)}"
        )
    values: NDArray[np.float32] = embeddings.float().cpu().numpy()
    return values


def _block_digest(clips: CachedWaveforms, keys: Sequence[str], encoder_digest: str) -> str:
    """Of all that decides a block's values:
    the encoder, how the samples are read, and which clips, in order."""
    parts = [encoder_digest, clips.cache.format.folder_name, str(clips.sample.samples), *keys]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _write_block(folder: Path, digest: str, block: NDArray[np.float32]) -> None:
    """A file whose name ends in the checksum of its values."""
    content = io.BytesIO()
    np.save(content, block, allow_pickle=False)
    write_atomically(folder / f"{digest}-{checksum(block)}.npy", content.getvalue())


def _read_block(folder: Path, digest: str, *, clips: int) -> NDArray[np.float32] | None:
    """(clips, dim); None where there is no such file. One that does not hold what was written is removed."""
    for path in sorted(folder.glob(f"{digest}-*.npy")):
        try:
            block: NDArray[np.float32] = np.load(path, allow_pickle=False)
            if block.ndim == 2 and len(block) == clips and path.stem == f"{digest}-{checksum(block)}":
                return block
            problem = f"shape {block.shape}, checksum {checksum(block)}"
        except Exception as error:  # damaged bytes can break the reader anywhere
            problem = f"{type(error).__name__}: {error}"
        logger.warning(
            "%s does not hold what was written to it (%s): its embeddings are computed again", path, problem
        )
        path.unlink(missing_ok=True)
    return None
