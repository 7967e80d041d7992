"""Rows of a request -> probabilities of each clip,
on worker threads that all requests of the process share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import groupby, islice
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray

from adaptf.audio.cores import workers
from adaptf.data.decode import Waveform
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.serving.bundle import Bundle, RoutedModel
from adaptf.serving.requests import BadRow, Row, clips_of, go_on

CLIPS_AT_ONCE = 16
"""Most clips that a worker has in hand,
so that memory stays bounded and a large request cannot keep others waiting."""

Heard = Callable[[str, RoutedModel, torch.Tensor, torch.Tensor], object]
"""Called with what a network has answered: device, its model, log-mels (clips, 1, bands, frames), logits
(clips, scenes). It should neither wait nor raise."""


@dataclass(frozen=True)
class Answer:
    """What the router has found out about a row."""

    device_asked: str | None
    device_used: str
    version_used: str
    seconds: float
    """Of audio."""
    probabilities: NDArray[np.float64]
    """(clips, scenes), in the order of time"""
    stream: StreamCalibration | None = None
    """Of the version; None where it has none."""


_Found = dict[int, Answer | BadRow]
"""By the number of the row."""


def classify(
    bundle: Bundle, rows: Sequence[Row | BadRow], stop: Event, listeners: Sequence[Heard] = ()
) -> list[Answer | BadRow]:
    """Every row's clips, each by the network of the row's device, in the rows' order; bad rows stay, and
    those whose audio cannot be decoded become such. Raises GivenUp once `stop` is set."""
    found: dict[int, Answer | BadRow] = {row.number: row for row in rows if isinstance(row, BadRow)}
    for task in _in_turn(bundle, [row for row in rows if isinstance(row, Row)], stop, listeners):
        found |= task.result()
    return [found[row.number] for row in rows]


def _in_turn(
    bundle: Bundle, rows: list[Row], stop: Event, listeners: Sequence[Heard]
) -> Iterator[Future[_Found]]:
    """Tasks that have ended. A request has no more of them at the workers than there are workers, so that
    those of other requests come in between."""
    pool, at_once = workers(), torch.get_num_threads()
    chunks = chunks_of(bundle, rows, workers=at_once)
    running: set[Future[_Found]] = set()
    while running := running | {
        pool.submit(_classify_chunk, bundle, chunk, stop, listeners)
        for chunk in islice(chunks, at_once - len(running))
    }:
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        yield from ended


def chunks_of(bundle: Bundle, rows: list[Row], *, workers: int) -> Iterator[list[Row]]:
    """What a worker takes at a time:
    rows of one device, or without one, with `CLIPS_AT_ONCE` clips or fewer, or a single longer row.

    A small request is spread over all the workers.
    """
    clips = {
        row.number: max(1, round(row.seconds * bundle.sample_rate / bundle.clip_samples)) for row in rows
    }
    most = min(CLIPS_AT_ONCE, -(-sum(clips.values()) // workers))

    def group(row: Row) -> str:
        return "" if bundle.by_sound(row.device) else bundle.device_used(row.device)

    for _, of_device in groupby(sorted(rows, key=group), key=group):
        chunk: list[Row] = []
        for row in of_device:
            if chunk and sum(clips[other.number] for other in chunk) + clips[row.number] > most:
                yield chunk
                chunk = []
            chunk.append(row)
        yield chunk


@torch.inference_mode()
def _classify_chunk(bundle: Bundle, rows: list[Row], stop: Event, listeners: Sequence[Heard]) -> _Found:
    """Rows of one device, by their numbers, or rows of which the sound says the device. Raises GivenUp."""
    go_on(stop)
    read = [clips_of(row, sample_rate=bundle.sample_rate, clip_samples=bundle.clip_samples) for row in rows]
    bad: _Found = {clips.number: clips for clips in read if isinstance(clips, BadRow)}
    good = [(row, clips) for row, clips in zip(rows, read, strict=True) if not isinstance(clips, BadRow)]
    return bad | _answers(bundle, good, stop, listeners) if good else bad


def _answers(
    bundle: Bundle, rows: Sequence[tuple[Row, Waveform]], stop: Event, listeners: Sequence[Heard]
) -> _Found:
    """Of one device, or by the sound; `rows` with their clips. Raises GivenUp."""
    asked = rows[0][0].device
    if bundle.by_sound(asked):
        return {row.number: _by_sound(bundle, row, clips, stop, listeners) for row, clips in rows}
    device, clips = bundle.device_used(asked), [clips for _, clips in rows]
    log_mels = _log_mels(bundle, np.concatenate(clips), stop)
    probabilities = _probabilities_of(bundle, device, log_mels, stop, listeners)
    parts = np.split(probabilities, np.cumsum([len(of_row) for of_row in clips])[:-1])
    return {
        row.number: _answer(bundle, row, device, part) for (row, _), part in zip(rows, parts, strict=True)
    }


def _by_sound(bundle: Bundle, row: Row, clips: Waveform, stop: Event, listeners: Sequence[Heard]) -> Answer:
    """By the device that the clips together tell of, or by `unknown`."""
    log_mels = list(_log_mels(bundle, clips, stop))
    told = bundle.device_from_sound.tell(torch.cat(log_mels)) if bundle.device_from_sound else None
    device = bundle.device_used(told)
    return _answer(bundle, row, device, _probabilities_of(bundle, device, log_mels, stop, listeners))


def _answer(bundle: Bundle, row: Row, device: str, probabilities: NDArray[np.float64]) -> Answer:
    model = bundle.models[device]
    return Answer(row.device, device, model.version, row.seconds, probabilities, model.stream)


def _log_mels(bundle: Bundle, clips: Waveform, stop: Event) -> Iterator[torch.Tensor]:
    """(clips, clip_samples) -> log-mels of a few clips at a time. Raises GivenUp."""
    for some in torch.from_numpy(clips).split(CLIPS_AT_ONCE):
        go_on(stop)
        yield bundle.log_mel(some)


def _probabilities_of(
    bundle: Bundle, device: str, log_mels: Iterable[torch.Tensor], stop: Event, listeners: Sequence[Heard]
) -> NDArray[np.float64]:
    """(clips, scenes). Raises GivenUp."""
    model, logits = bundle.models[device], list[torch.Tensor]()
    for some in log_mels:
        go_on(stop)
        logits.append(model.network(some))
        for heard in listeners:
            heard(device, model, some, logits[-1])
    probabilities: NDArray[np.float64] = torch.cat(logits).double().softmax(dim=1).numpy()
    return probabilities
