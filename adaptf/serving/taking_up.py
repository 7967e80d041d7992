"""Taking up versions that the registry names: which ones fit, and when one that failed is tried again."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from adaptf.errors import without_passwords
from adaptf.names import UNKNOWN
from adaptf.serving.bundle import Bundle, BundleError

_LONGEST_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class Failure:
    """A version that could not be taken up."""

    version: str
    """Such as `adaptf-a/3`."""
    sha256: str
    """Of its bundle."""
    wait_seconds: float
    """Until it is tried again."""
    again_at: float
    """By time.monotonic()."""


class Failures(dict[str, Failure]):
    """By device, or by registered model. Another version is no longer the one that failed."""

    def is_due(self, key: str, version: str, sha256: str) -> bool:
        """Whether a version is to be tried: it has not failed, or so long ago that it may do by now."""
        failure = self.get(key)
        return failure is None or not _is(failure, version, sha256) or time.monotonic() >= failure.again_at

    def add(self, key: str, version: str, sha256: str, *, first_wait_seconds: float) -> None:
        """Each time it waits twice as long."""
        former, wait_seconds = self.get(key), first_wait_seconds
        if former and _is(former, version, sha256):
            wait_seconds = min(2 * former.wait_seconds, _LONGEST_WAIT_SECONDS)
        self[key] = Failure(version, sha256, wait_seconds, time.monotonic() + wait_seconds)


def _is(failure: Failure, version: str, sha256: str) -> bool:
    return (failure.version, failure.sha256) == (version, sha256)


def check_fits(bundle: Bundle, here: Bundle) -> None:
    """Raises BundleError where it is not the model of one device that could answer in a router."""
    check_devices(bundle.models)
    check_same_task(bundle, here)


def check_devices(devices: Iterable[str]) -> None:
    """Raises BundleError where a bundle of these devices is not the model of one of them."""
    if list(devices) != [UNKNOWN]:
        raise BundleError(f"it is a router for {sorted(devices)}, not the model of one device")


def check_same_task(bundle: Bundle, here: Bundle) -> None:
    """Raises BundleError where its networks take or tell something else than those of a router."""
    wanted = here.input_and_output()
    if differences := [
        f"{key} {value!r}" for key, value in bundle.input_and_output().items() if value != wanted[key]
    ]:
        raise BundleError(f"it has {', '.join(differences)}, unlike this router")


def error_in_short(error: Exception) -> str:
    """One line, which whoever asks for /health or /version gets too."""
    return without_passwords(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
