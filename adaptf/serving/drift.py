"""Whether what a router hears is still like the validation clips of its versions: level, spectrum, confidence
and scenes of the last clips of each device, held against the profile that the version brings.

It takes the log-mels and logits of the answers, and keeps counts alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from adaptf.evaluation.drift import distance
from adaptf.evaluation.profile import Profile
from adaptf.serving.bundle import RoutedModel
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log
from adaptf.serving.taking_up import error_in_short


@dataclass
class Watch:
    """Over one version of a device's model."""

    device: str
    model: RoutedModel
    profile: Profile | None
    """None where nothing can be watched."""
    clips: int = 0
    """Of the window that is being filled."""
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Its histograms by kind."""
    windows: int = 0
    """That were full."""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Of the last full window from the profile, by kind. Only ever replaced as a whole."""

    @property
    def limits(self) -> dict[str, float]:
        """The highest distance of each kind within the range."""
        return {kind: held.limit for kind, held in self.profile.kinds.items()} if self.profile else {}

    @property
    def outside(self) -> set[str]:
        """Kinds that the last full window has left the range of."""
        return {kind for kind, found in self.distances.items() if found > self.limits[kind]}

    def add(self, counts: Mapping[str, NDArray[np.int64]], *, clips: int) -> None:
        """Histograms of more clips; compares the window once it is full, and begins the next."""
        assert self.profile
        self.clips += clips
        self.counts = {kind: self.counts.get(kind, 0) + more for kind, more in counts.items()}
        if self.clips >= self.profile.window_clips:
            self._compare(self.profile)
            self.clips, self.counts = 0, {}

    def _compare(self, profile: Profile) -> None:
        before = self.outside
        self.windows += 1
        self.distances = {
            kind: float(distance(self.counts[kind], held.counts)) for kind, held in profile.kinds.items()
        }
        if (now := self.outside) != before:
            log(
                "drift",
                logging.WARNING if now - before else logging.INFO,
                device=self.device,
                version=self.model.version,
                left=sorted(now - before),
                back=sorted(before - now),
                distances=_rounded(self.distances),
                limits=_rounded(self.limits),
                clips=self.clips,
                message=f"unlike its validation clips: {', '.join(sorted(now))}" if now else "as it was",
            )


class Drift:
    """Watches the models of a follower, each from its first clip on."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._watches: dict[str, Watch] = {}
        self._one_at_a_time = Lock()

    def heard(self, device: str, model: RoutedModel, log_mels: torch.Tensor, logits: torch.Tensor) -> None:
        """Counts clips that production has just answered, (clips, 1, bands, frames) and (clips, scenes)."""
        if self.follower.bundle.models.get(device) is not model:
            return  # a request began before another version was taken up
        watch = self._watch_over(device, model)
        if watch.profile:
            counts = watch.profile.count(log_mels, logits)
            with self._one_at_a_time:
                watch.add(counts, clips=len(log_mels))

    def watches(self) -> list[Watch]:
        """Of the models that answer now, where any clip has come."""
        models = self.follower.bundle.models
        watches = sorted(self._watches.copy().items())
        return [watch for device, watch in watches if watch.model is models.get(device)]

    def _watch_over(self, device: str, model: RoutedModel) -> Watch:
        with self._one_at_a_time:
            watch = self._watches.get(device)
            if watch is None or watch.model is not model:
                watch = self._watches[device] = Watch(device, model, _profile_of(device, model))
        return watch


def _profile_of(device: str, model: RoutedModel) -> Profile | None:
    """Says why, where there is none that can be read."""
    why = "the version has no profile, register its run of `quantize` again (docs/drift.md)"
    try:
        if model.profile:
            return Profile.from_dict(model.profile)
    except (KeyError, TypeError, ValueError) as error:
        why = f"its profile cannot be read: {error_in_short(error)}"
    log("drift", logging.WARNING, device=device, version=model.version, message=f"not watched: {why}")
    return None


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(value, 3) for kind, value in values.items()}
