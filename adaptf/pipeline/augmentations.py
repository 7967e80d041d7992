"""Augmentations from settings:
which there are, from which generators they draw, and whose clips get impulse responses."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptf.audio.freq_mixstyle import FreqMixStyle
from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank, simulated_bank
from adaptf.audio.mixup import Mixup
from adaptf.audio.spec_augment import SpecAugment
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import UNKNOWN
from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.folders import files_below
from adaptf.data.hashes import FileState, state_of
from adaptf.data.responses import ResponseLevel, load_responses
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.config import AugmentConfig
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.runs import NONE
from adaptf.training.augmentation import (
    FeatureAugmentation,
    MixedTeachers,
    WaveformAugmentation,
    impulse_responses,
    on_features,
    soft_mixup,
)
from adaptf.training.device_probability import probability_per_device
from adaptf.training.group import process_place


@dataclass(frozen=True)
class Augmentations:
    """Augmentations in their order, and the generators whose place belongs into a checkpoint."""

    waveform: Sequence[WaveformAugmentation]
    feature: Sequence[FeatureAugmentation]
    generators: dict[str, np.random.Generator]


def build_augmentations(
    config: AugmentConfig,
    *,
    p_of_clip: NDArray[np.float64],
    sample_rate: int,
    seed: int,
    teachers: MixedTeachers = "logits",
    shared: SharedObjects | None = None,
) -> Augmentations:
    """Each augmentation has a generator of its own, so that switching one off changes no other's draws.

    `p_of_clip`: of an impulse response, for each training clip. `shared` keeps the bank of responses.
    """
    names = ("impulse_response", "freq_mixstyle", "mixup", "spec_augment")
    generators = {
        name: np.random.default_rng([seed, *process_place(), place]) for place, name in enumerate(names)
    }
    waveform: list[WaveformAugmentation] = []
    feature: list[FeatureAugmentation] = []
    if (p := float(p_of_clip.max(initial=0.0))) > 0:
        bank = _shared_bank(config, sample_rate, shared or SharedObjects())
        respond = DeviceImpulseResponse(bank, p=p, generator=generators["impulse_response"])
        waveform.append(impulse_responses(respond, p_of_clip=p_of_clip))
    if (p := config.mixstyle_p) > 0:
        style = FreqMixStyle(p=p, alpha=config.mixstyle_alpha, generator=generators["freq_mixstyle"])
        feature.append(on_features(style))
    if (share := config.spec_mask_share) > 0:
        feature.append(on_features(SpecAugment(mask_share=share, generator=generators["spec_augment"])))
    if config.mixup_alpha > 0:
        mixup = Mixup(alpha=config.mixup_alpha, generator=generators["mixup"])
        feature.append(soft_mixup(mixup, teachers=teachers))
    return Augmentations(waveform, feature, generators)


def dir_p_by_device(augment: AugmentConfig, training_devices: Sequence[str]) -> dict[str, float]:
    """Of an impulse response, by device of the data's training clips.
    Raises ValueError where another one is named."""
    only = chosen_devices(augment, training_devices)
    found = probability_per_device(training_devices, p=augment.dir_p, only=only, p_of=augment.dir_p_of)
    return dict(zip(training_devices, found, strict=True))


def dir_p_of_clips(augment: AugmentConfig, data: PreparedData, train: ClipSet) -> NDArray[np.float64]:
    """Of an impulse response, for each clip of `train`."""
    dir_p = dir_p_by_device(augment, data.training_devices)
    names = data.devices or (UNKNOWN,)  # what AudioSet's clips are of
    return np.array([dir_p.get(device, 0.0) for device in names])[train.devices]


def chosen_devices(augment: AugmentConfig, training_devices: Sequence[str]) -> tuple[str, ...]:
    """`dir_devices`; empty, which means all, where they are the default's, which are TAU's,
    and the data has none of them."""
    default = AugmentConfig.dir_devices
    no_such = augment.dir_devices == default and not set(default) & set(training_devices)
    return () if no_such else augment.dir_devices


def say_chosen_devices(augment: AugmentConfig, training_devices: Sequence[str]) -> None:
    """Where the default means other devices than it names."""
    if augment.dir_p > 0 and chosen_devices(augment, training_devices) != augment.dir_devices:
        print(
            f"No training clips of the data are of {', '.join(augment.dir_devices)}, the default of "
            f"dir_devices: those of all devices ({', '.join(training_devices)}) get impulse responses",
            flush=True,
        )


def check_folder(augment: AugmentConfig) -> None:
    """Raises UserError where `dir_folder` is no folder with audio files, which are not opened."""
    folder = augment.dir_folder
    if folder == NONE:
        return
    if not os.path.isdir(folder):
        raise UserError(
            f"dir_folder is '{folder}', which is no folder: give one of impulse responses, or 'none'"
        )
    if not files_below(Path(folder), suffixes=AUDIO_SUFFIXES):
        expected = ", ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(
            f"dir_folder is '{folder}', which holds no impulse response: {expected} files are expected there"
        )


def _folder_state(folder: str) -> tuple[str | FileState | None, ...]:
    """Changes when the folder is another one or a response in it changes."""
    if folder == NONE:
        return (folder,)
    return folder, *(
        state_of(os.path.join(folder, name)) for name in files_below(Path(folder), suffixes=AUDIO_SUFFIXES)
    )


def _shared_bank(augment: AugmentConfig, sample_rate: int, shared: SharedObjects) -> ResponseBank:
    check_folder(augment)
    return shared.once(
        ("responses", *_folder_state(augment.dir_folder), sample_rate, augment.dir_level),
        lambda: _response_bank(augment.dir_folder, sample_rate, augment.dir_level),
    )


def _response_bank(folder: str, sample_rate: int, level: ResponseLevel) -> ResponseBank:
    """Measured responses from a folder, or simulated microphones where there is none."""
    if folder == NONE:
        bank = simulated_bank(sample_rate=sample_rate)
        print(
            f"No folder of impulse responses is given (dir_folder): {len(bank)} simulated microphones are "
            "used",
            flush=True,
        )
        return bank
    return load_responses(Path(folder), sample_rate=sample_rate, level=level)
