"""A candidate beside production: it answers a share of the clips too, unseen, when production has answered.

It may cost no answer anything: clips wait in a bounded queue, and what finds no place there is dropped; one
thread of its own computes, and rests after each clip so long that it takes no more than its share of a core.
"""

import logging
import queue
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from adaptf.audio.cores import compute_alone
from adaptf.serving.agreement import Agreement, are_same
from adaptf.serving.bundle import RoutedModel
from adaptf.serving.candidates import Candidates
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log
from adaptf.serving.taking_up import error_in_short

_MOST_WAITING = 32
"""Clips: at 512 bands these are some 4 MB."""
_STOP_SECONDS = 2.0
_TELL_SECONDS = 600.0
"""Time between two lines of the log on the agreement so far."""


@dataclass(frozen=True)
class _Clip:
    """That production has answered."""

    device: str
    production: RoutedModel
    log_mel: torch.Tensor
    """(1, bands, frames)"""
    best: int
    """The scene that production found."""


class Shadow:
    """Compares candidates with the models of a follower."""

    def __init__(
        self, follower: Follower, candidates: Candidates, *, share: float, core_share: float
    ) -> None:
        """`share` of the clips are taken, `core_share` of one processor core is the most that they cost."""
        self.follower, self.candidates = follower, candidates
        self.share, self.core_share = share, core_share
        self.dropped = 0
        """Clips that found no place in the queue."""
        self._random = random.Random()
        self._known: dict[str, Agreement] = {}
        self._clips: queue.Queue[_Clip | None] = queue.Queue(_MOST_WAITING)
        self._stop, self._started = threading.Event(), threading.Event()
        self._next_look, self._next_words = 0.0, time.monotonic() + _TELL_SECONDS
        self._thread = threading.Thread(target=self._run, name="adaptf-shadow", daemon=True)

    def start(self) -> None:
        """Returns at once; candidates are loaded while production answers."""
        threads = torch.get_num_threads()
        self._thread.start()
        self._started.wait()
        torch.set_num_threads(threads)  # for threads to come, which would inherit that of the newest one

    def stop(self) -> None:
        """Ends the thread after the clip in hand, and waits for that a while: no network should compute
        when the program ends."""
        self._stop.set()
        self.look_now()
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_SECONDS)

    def look_now(self) -> None:
        """Has the registry looked at for candidates, by the thread that does it."""
        self._next_look = 0.0
        with suppress(queue.Full):  # then the thread does not wait for a clip
            self._clips.put_nowait(None)

    def heard(self, device: str, model: RoutedModel, log_mels: torch.Tensor, logits: torch.Tensor) -> None:
        """Takes a share of the clips that production has just answered, (clips, 1, bands, frames) and
        (clips, scenes). It never waits."""
        candidate = self.candidates.models.get(device)
        if candidate is None or are_same(candidate, model):
            return
        for place in range(len(log_mels)):
            if self._random.random() < self.share:
                clip = _Clip(device, model, log_mels[place].clone(), int(logits[place].argmax()))
                try:
                    self._clips.put_nowait(clip)
                except queue.Full:
                    self.dropped += 1

    def agreements(self) -> dict[str, Agreement]:
        """By device, of what is compared now: it starts anew where one of the two versions changes."""
        models, candidates = self.follower.bundle.models, self.candidates.models
        return {
            device: self._agreement(device, models[device], candidate)
            for device, candidate in sorted(candidates.items())
            if device in models and not are_same(candidate, models[device])
        }

    def _agreement(self, device: str, production: RoutedModel, candidate: RoutedModel) -> Agreement:
        known = self._known.get(device)
        return known if known and known.is_of(production, candidate) else Agreement(production, candidate)

    def _run(self) -> None:
        compute_alone()
        self._started.set()
        while not self._stop.is_set():
            try:
                self._go_on()
            except Exception as error:  # production does not depend on it
                log("shadow", logging.ERROR, message=error_in_short(error))
                self._stop.wait(1.0)

    def _go_on(self) -> None:
        """One look at the registry, where it is time, and one clip."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.follower.check_seconds
            self.candidates.look()
            self._tell()
        with suppress(queue.Empty):
            clip = self._clips.get(timeout=max(0.0, self._next_look - time.monotonic()))
            if clip is not None:
                start = time.perf_counter()
                self._compare(clip)
                self._stop.wait((time.perf_counter() - start) * (1 / self.core_share - 1))

    @torch.inference_mode()
    def _compare(self, clip: _Clip) -> None:
        """Counts what the candidate says of a clip, where both versions are still the ones that count."""
        agreement = self.agreements().get(clip.device)
        if agreement is None or agreement.production is not clip.production:
            return
        self._take_over(clip.device, agreement)
        scenes, versions = self.follower.bundle.scenes, _versions(clip.device, agreement)
        try:
            logits = agreement.candidate.network(clip.log_mel[None])
            if not bool(logits.isfinite().all()):
                raise ValueError(f"logits {logits.flatten().tolist()}")
        except Exception as error:
            agreement.errors += 1
            log("shadow", logging.ERROR, **versions, message=error_in_short(error))
            return
        scene, shadow_scene = scenes[clip.best], scenes[int(logits.argmax())]
        agreement.scenes[scene, shadow_scene] += 1
        if scene != shadow_scene:
            log("shadow", **versions, scene=scene, shadow_scene=shadow_scene, message="another scene")

    def _take_over(self, device: str, agreement: Agreement) -> None:
        """From now on this is what is counted of a device."""
        former = self._known.get(device)
        if former is not agreement:
            if former:
                _tell(device, former, "ended")
            self._known[device] = agreement

    def _tell(self) -> None:
        """Says now and then what was found so far, and forgets what is no longer compared."""
        compared = self.agreements()
        for device, agreement in list(self._known.items()):
            if compared.get(device) is not agreement:
                _tell(device, self._known.pop(device), "ended")
        if time.monotonic() >= self._next_words:
            self._next_words = time.monotonic() + _TELL_SECONDS
            for device, agreement in self._known.items():
                _tell(device, agreement, "so far")


def _tell(device: str, agreement: Agreement, message: str) -> None:
    """The agreement as a line of the log."""
    table = agreement.table()
    figures = {name: table[name] for name in ("clips", "agreed", "errors", "scenes")}
    log("shadow", **_versions(device, agreement), **figures, message=message)


def _versions(device: str, agreement: Agreement) -> dict[str, Any]:
    production, candidate = agreement.production.version, agreement.candidate.version
    return {"device": device, "version": candidate, "production": production}
