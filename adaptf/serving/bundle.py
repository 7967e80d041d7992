"""What a router answers with:
a folder with one network per device and a manifest, written, read and tried out."""

import inspect
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adaptf.audio.logmel import LogMel
from adaptf.compression.runtime import NETWORK_FILES, Network, load_network
from adaptf.errors import UserError
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.files import sha256_of
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND, DeviceFromSound
from adaptf.names import UNKNOWN, stored, tidy
from adaptf.serving.log_lines import log

BUNDLE = "bundle"
"""Name of the artifact folder that holds the manifest and the networks' files."""
MANIFEST = "router.json"
_STREAM = "stream.json"
_PROFILES = "profiles.json"
"""Files of their own, so that servers of earlier versions of adaptf take up the bundle."""
SUMS = "SHA256SUMS"
"""What the files of a bundle were when it was written; `sha256sum -c SHA256SUMS` checks them too."""
_RESTORE = "put its files back as they were, or register it again"


class BundleError(UserError):
    """A bundle that cannot answer every request."""


@dataclass(frozen=True)
class RoutedModel:
    """A network and the registered version that it is."""

    network: Network
    """(batch, 1, bands, frames) -> logits (batch, scenes)"""
    version: str
    """Such as `adaptf-a/3`."""
    sha256: str = ""
    """Of that version's own bundle, which tells it from others of its number; empty where it is not known."""
    stream: StreamCalibration | None = None
    """What its seconds say of a stream; None where a version of adaptf registered it that knew no streams."""
    profile: Mapping[str, Any] | None = None
    """What `adaptf.evaluation.profile` reads, which answers need nothing of; None where there is none."""


@dataclass(frozen=True)
class Bundle:
    """What a router answers with, read from its artifact folder."""

    scenes: list[str]
    sample_rate: int
    clip_samples: int
    max_seconds: float
    """The longest audio of one row."""
    log_mel: LogMel
    models: Mapping[str, RoutedModel]
    """By device; `unknown` is always there."""
    device_from_sound: DeviceFromSound | None = None
    """What says the device of a row that names none."""

    def by_sound(self, device: str | None) -> bool:
        """Whether the sound says which device it is."""
        return self.device_from_sound is not None and not tidy(device or "")

    def device_used(self, device: str | None) -> str:
        """Whose model answers: that of `unknown` for null and for a device that has none."""
        return self.known(device or "") or UNKNOWN

    def known(self, device: str) -> str | None:
        """The device with a model that is meant: blanks around a name are no part of it, 'A' is not 'a'."""
        return next((name for name in (device, tidy(device)) if name in self.models), None)

    def input_and_output(self) -> dict[str, Any]:
        """What a network must share with the others of a bundle to stand among them."""
        mel = {name: getattr(self.log_mel, name) for name in inspect.signature(LogMel).parameters}
        return {"scenes": self.scenes, "clip_samples": self.clip_samples} | mel


def write_bundle(
    folder: Path,
    models: Mapping[str, tuple[Path, str]],
    *,
    scenes: Sequence[str],
    mel: Mapping[str, Any],
    sample_rate: int,
    clip_samples: int,
    max_seconds: float,
    hashes: Mapping[str, str] | None = None,
    stream: StreamCalibration | None = None,
    device_from_sound: Path | None = None,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes a new folder that `log_router` logs:
    by device, a copy of its INT8 file and the version that it is.

    The OpenVINO form and the clips to try it with that lie beside an INT8 file are copied along. `mel` holds
    the keyword arguments of LogMel, `hashes` by device those of the versions' own bundles, `stream` what
    makes the seconds of each network the evidence of a stream, `device_from_sound` is the file of `finetune`,
    which is copied, `profiles` by device are what drift is told by.
    The only device of a model for one device is `unknown`.
    """
    folder.mkdir(parents=True)
    manifest = {
        "scenes": list(scenes),
        "sample_rate": sample_rate,
        "clip_samples": clip_samples,
        "max_seconds": max_seconds,
        "mel": dict(mel),
        "models": {
            device: {"file": f"{stored(device)}.pt2", "version": version}
            | ({"sha256": hashes[device]} if hashes else {})
            for device, (_, version) in models.items()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    if stream:
        (folder / _STREAM).write_text(json.dumps(asdict(stream), indent=2))
    if profiles:
        (folder / _PROFILES).write_text(json.dumps(profiles))
    for device, (file, _) in models.items():
        for form in NETWORK_FILES:
            if form == ".pt2" or file.with_suffix(form).exists():
                shutil.copyfile(file.with_suffix(form), folder / f"{stored(device)}{form}")
    if device_from_sound:
        shutil.copyfile(device_from_sound, folder / DEVICE_FROM_SOUND)
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """Says what the files of a bundle are now."""
    (folder / SUMS).write_bytes(_sums(folder))


def _sums(folder: Path) -> bytes:
    """A line per file."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{sha256_of(path)}  {path.name}\n" for path in files).encode()


def bundle_hash(folder: Path) -> str:
    """What tells a bundle from all others; empty for one of a version of adaptf that wrote no hashes."""
    return sha256_of(folder / SUMS) if (folder / SUMS).is_file() else ""


def check_files(folder: Path, sha256: str = "") -> None:
    """Raises BundleError where a file is not as it was written,
    or the bundle is not the one with this hash."""
    found = bundle_hash(folder)
    if found:
        changed = set((folder / SUMS).read_bytes().splitlines()) ^ set(_sums(folder).splitlines())
        if names := sorted({line.partition(b"  ")[2].decode(errors="replace") for line in changed}):
            raise BundleError(f"{', '.join(names)} of a bundle is not what was registered: {_RESTORE}")
    if sha256 and sha256 != found:
        raise BundleError(f"this is another bundle than the one that was registered: {_RESTORE}")


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, every network tried on silence. Raises BundleError where it is incomplete or
    unfit, or was changed since it was written."""
    try:
        check_files(folder)
        if not bundle_hash(folder):
            log(
                "bundle",
                logging.WARNING,
                message=f"{folder} has no {SUMS}: nobody knows whether it was changed",
            )
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, mel, values = manifest.pop("models"), manifest.pop("mel"), manifest
        if UNKNOWN not in files:
            raise BundleError(
                f"the bundle has networks for {sorted(files)} but none for {UNKNOWN!r}, "
                "which answers for every other device: add it"
            )
        profiles = _read_profiles(folder)
        models = {
            device: replace(_read_model(folder, **entry), profile=profiles.get(device))
            for device, entry in files.items()
        }
        log_mel = LogMel(**mel)
        by_sound = _read_device_from_sound(folder / DEVICE_FROM_SOUND, log_mel)
        bundle = Bundle(log_mel=log_mel, models=models, device_from_sound=by_sound, **values)
    except BundleError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise BundleError(
            f"{folder} is no bundle of a router with a complete {MANIFEST}: {error!r}"
        ) from error
    for device, model in models.items():
        _check_network(device, model.network, bundle)
    return bundle


def warn_of_slower_forms(bundle: Bundle) -> None:
    """Says in the log why a network runs in no faster form."""
    if slower := {device: model.network.why for device, model in bundle.models.items() if model.network.why}:
        log("models", logging.WARNING, message="a slower form of these networks serves", why=slower)


def _read_stream(folder: Path) -> StreamCalibration | None:
    path = folder / _STREAM
    return StreamCalibration(**json.loads(path.read_text())) if path.is_file() else None


def _read_profiles(folder: Path) -> dict[str, Any]:
    """By device; empty where the bundle has none."""
    path = folder / _PROFILES
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _read_device_from_sound(path: Path, log_mel: LogMel) -> DeviceFromSound | None:
    """None where the bundle has none."""
    return DeviceFromSound.read(path, bands=log_mel.bands) if path.is_file() else None


def _read_model(folder: Path, *, file: str, version: str, sha256: str = "") -> RoutedModel:
    """A network of the bundle; `file` is a bare name, never a way out of the folder."""
    if Path(file).name != file or not (folder / file).is_file():
        raise BundleError(f"{file!r} of {version} should be the name of a file in the bundle")
    try:
        return RoutedModel(load_network(folder / file), version, sha256, _read_stream(folder))
    except ValueError as error:
        raise BundleError(f"the network of {version} does not load: {error}") from error


def _check_network(device: str, network: Network, bundle: Bundle) -> None:
    """Tries two clips of silence:
    a fixed batch, other features or other scenes should fail before any request does."""
    wanted = (2, len(bundle.scenes))
    if bundle.log_mel.sample_rate != bundle.sample_rate:
        raise BundleError(
            f"the log-mel is made for {bundle.log_mel.sample_rate} Hz, the bundle for {bundle.sample_rate}"
        )
    try:
        with torch.no_grad():
            logits = network(bundle.log_mel(torch.zeros(2, bundle.clip_samples)))
    except (RuntimeError, ValueError) as error:
        raise BundleError(
            f"the network of device {device!r} does not take the bundle's log-mel: {error}"
        ) from error
    if tuple(logits.shape) != wanted or not bool(logits.isfinite().all()):
        raise BundleError(
            f"the network of device {device!r} should give finite logits {wanted}, got {tuple(logits.shape)}"
        )
