"""Settings that several stages share. The dataclasses of this folder are the only place of defaults:
our recipe."""

import math
import os
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from adaptf.audio.logmel import BANDS, CLIP_RATE, HOP_SAMPLES, N_FFT, WINDOW_SAMPLES
from adaptf.data.cache.shards import SampleType
from adaptf.data.loading import Loading
from adaptf.data.responses import ResponseLevel
from adaptf.data.sets.tau import TrainSplit
from adaptf.errors import UserError
from adaptf.evaluation.scores import Score
from adaptf.models.keywords import network_settings, settings_taken
from adaptf.models.students.registry import TFSEPNET, find_student
from adaptf.pipeline.ranges import COUNT, NOT_NEGATIVE, PART, POSITIVE, SHARE, Range, within
from adaptf.tracking.runs import LATEST, NONE

SHARED_SECTIONS = ("mel", "model", "trainer", "seed")
"""Sections that a preset, `main` and `sweep` give once for all stages."""
PRESET_SECTIONS = ("data", "audioset", "mel", "model", "trainer")
"""Sections of a preset beside those of stages."""
PRESET_VALUES = ("seed", "seeds", "teacher_kinds", "deploy", "repeat")
"""What stands in a preset outside of all sections; the same as in `main`."""
_SEVERAL = Range("0, or 2 and more", lambda number: number == 0 or number >= 2)
_OF_CLIPS = Range(f"{CLIP_RATE}, at which clips are prepared", lambda rate: rate == CLIP_RATE)


Files = Literal["none", "one", "per device"]
"""Which checkpoint files may stand in the place of a run:
a file, or also a mapping or folder with one per device."""


def upstream(stage: str, **tags: str) -> str:
    """A field that names the run of another stage: a run id, or `latest` for the newest one that finished."""
    return field(default=LATEST, metadata={"stage": stage, "tags": tags})


def upstream_optional(stage: str) -> str:
    """The same, or `none`."""
    return field(default=LATEST, metadata={"stage": stage, "tags": {}, "optional": True})


def upstream_model(stage: str, *, files: Files = "one", optional: bool = False, default: str = LATEST) -> str:
    """A field that names the run of another stage, or checkpoint files; `optional`: or `none`."""
    return field(default=default, metadata={"stage": stage, "tags": {}, "files": files, "optional": optional})


def upstream_each(stage: str, tag: str, *, optional: bool = False) -> str:
    """A field that names several runs of another stage: ids separated by commas, or `latest` for the newest
    of each `tag`; `optional`: or `none`."""
    return field(default=LATEST, metadata={"stage": stage, "each": tag, "optional": optional})


def upstream_several(stage: str, *, files: Files = "none") -> str:
    """A field that names one run of another stage or several with other seeds: ids separated by commas, or
    that of a run over `seeds`, which stands for all of its runs; or checkpoint files, or `none`."""
    metadata = {"stage": stage, "tags": {}, "several": True, "files": files, "optional": True}
    return field(default=LATEST, metadata=metadata)


def path_field(default: str, **metadata: Any) -> str:
    """A field that holds a path, or `none`: given on a command line it becomes absolute (adaptf/paths.py)."""
    return field(default=default, metadata={"path": True, **metadata})


def file_or_name(default: str) -> str:
    """A field that may hold the path of a file or of a folder, or several, and else names something."""
    return field(default=default, metadata={"file or name": True})


def aside(default: Any) -> Any:
    """A field that says where and how fast a stage works, which can't change its result:
    no part of its fingerprint."""
    return field(default=default, metadata={"aside": True})


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Dotted name, field and value of all settings of a configuration, also of those in its sections."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", one, value


def settings(config: Any) -> dict[str, Any]:
    """The values of a configuration and of its sections by their dotted names; a value may be a mapping."""
    return {name: value for name, _, value in leaves(config)}


def check_ranges(config: Any) -> None:
    """Raises UserError for a number outside of its field's range, also in a section."""
    for name, one, value in leaves(config):
        for number in value if isinstance(value, tuple) else (value,):
            wanted = one.metadata.get("range")
            if wanted and number is not None and not (math.isfinite(number) and wanted.holds(number)):
                raise UserError(f"{name} is {number}: it should be {wanted.words}")


def content_folders(config: Any) -> list[Path]:
    """Folders whose files decide a stage's result as its settings do."""
    return [
        Path(value) for _, one, value in leaves(config) if "content" in one.metadata and os.path.isdir(value)
    ]


def upstream_fields(config: Any) -> list[Field[Any]]:
    """Fields that name runs of other stages."""
    return [field for field in fields(config) if "stage" in field.metadata]


@dataclass(frozen=True)
class DataConfig:
    """The clips."""

    root: str = path_field(NONE)
    """Folder of TAU Urban Acoustic Scenes 2022 Mobile, of AudioSet or of CochlScene, or a CSV file with
    filename, scene, device."""
    train_split: TrainSplit = "25"
    """Percent of TAU's training clips, one of the official splits. The challenge allows 25 and less."""
    challenge: bool = True
    """Refuses what DCASE 2025 Task 1 forbids, such as a larger train_split; false for work outside of it."""
    scenes: tuple[str, ...] = ()
    """Scene names in the order of the logits; an empty list means those of the data, sorted."""
    validation_share: float = within(PART, 0.15)
    """Share of the training clips, from 0 to 1, that is cut out, by location, for choosing checkpoints."""
    test_share: float = within(PART, 0.2)
    """Share of the training clips, from 0 to 1, that is cut out, by location, for testing where the data has
    no test clips of its own."""
    split_seed: int = 0
    """Any whole number: another one cuts validation and test clips, and deals folds, at other locations."""
    folds: int = within(_SEVERAL, 0)
    """So many times the clips that are not for testing are split in another way, each part validating once: a
    run per fold under a parent, which stages take as prepare_run to run once per fold. 0: one split, by
    validation_share."""
    folds_by: Literal["location", "city"] = "location"
    """What is in one fold as a whole: no fold is judged at a location, or in a city, that it was trained
    on."""
    fold: int = within(NOT_NEGATIVE, 0)
    """The number of a single fold, from 1, that is to be prepared; 0: all of them."""
    audioset_clip_seconds: float = within(POSITIVE, 10.0)
    """Length to which AudioSet clips are cut or padded in the cache, in seconds;
    training draws one second of it."""
    cache: str = path_field("cache")
    """Folder of the waveform cache; `cache`, also where it is given, is one in the project's folder."""
    sample_type: SampleType = "float32"
    """How the waveform cache keeps a sample: float32 is exact; int16 takes half the space and changes
    log-mels a little (docs/data.md)."""
    verify: bool = aside(False)
    """Reads every audio file again, whatever its size, times and inode say:
    for disk images and mounts that give all files the same."""
    workers: int = aside(2)
    """Processes that decode the audio files while the cache is built."""

    def __post_init__(self) -> None:
        if self.fold > self.folds:
            raise UserError(
                f"data.fold is {self.fold}: it should be from 1 to data.folds, which is {self.folds}"
            )


@dataclass(frozen=True)
class MelConfig:
    """The log-mel input of the student."""

    bands: int = within(COUNT, BANDS)
    """Number of mel bands between 0 Hz and half the sample rate."""
    sample_rate: int = within(_OF_CLIPS, CLIP_RATE)
    """Samples a second of the clips, in Hz. They are prepared at this rate alone: leave it as it is."""
    n_fft: int = within(COUNT, N_FFT)
    """Length of the Fourier transform in samples, no less than that of the window."""
    window_samples: int = within(COUNT, WINDOW_SAMPLES)
    """Length of the Hann window in samples."""
    hop_samples: int = within(COUNT, HOP_SAMPLES)
    """Distance of two frames in samples; 500 gives 64 frames a second."""


@dataclass(frozen=True)
class ModelConfig:
    """The student. Raises UserError for one that there is not, and for a setting that it does not have."""

    kind: str = TFSEPNET
    """tfsepnet, cp_mobile (with mel.bands=256 the challenge's baseline), or another student of
    adaptf/models/students/registry.py."""
    width: int | None = within(COUNT, None)
    """Channels of the first blocks; where nothing is said 64 of tfsepnet, 32 of cp_mobile."""
    depth: int | None = within(COUNT, None)
    """Of tfsepnet the entries of the layout that are used, of which there are 17; cp_mobile has none."""
    dropout: float | None = within(PART, None)
    """Dropout in each block; where nothing is said 0.1 of tfsepnet. cp_mobile has none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the student takes, as in {multiplier: 1.8, expansion: 2.1} of cp_mobile."""

    def __post_init__(self) -> None:
        self.network_settings()

    def network_settings(self) -> dict[str, Any]:
        """Keyword arguments of the student's network."""
        network = find_student(self.kind).network
        taken = settings_taken(network)
        shared = {name: getattr(self, name) for name in ("width", "depth", "dropout")}
        said = {name: value for name, value in shared.items() if value is not None}
        if unknown := next((name for name in said if name not in taken), ""):
            raise UserError(
                f"model.{unknown}: {self.kind} has none, it takes {', '.join(taken) or 'no settings'}"
            )
        return network_settings(network, shared=said, own=self.settings, what="model.settings")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations of training batches."""

    dir_p: float = within(SHARE, 0.4)
    """Probability, from 0 to 1, that a clip is played through the impulse response of a microphone (DIR)."""
    dir_devices: tuple[str, ...] = ("a",)
    """Devices whose clips get impulse responses;
    an empty list means all, as the default does for data without such training clips."""
    dir_p_of: dict[str, float] = field(default_factory=dict)
    """Probabilities that take the place of dir_p for clips of single devices, as in {b: 0.1, "s1,s2,s3":
    0.2}, whether they are in dir_devices or not."""
    dir_folder: str = path_field(NONE, content=True)
    """Folder of WAV files with impulse responses, such as those of MicIRP; `none` takes simulated
    microphones."""
    dir_level: ResponseLevel = "unit_energy"
    """How loud the responses in dir_folder are. unit_energy: each is scaled to an energy of 1, as simulated
    microphones are. as_recorded: each has its file's gain; those of MicIRP differ by up to 21 dB."""
    mixstyle_p: float = within(SHARE, 0.8)
    """Probability, from 0 to 1, that a batch goes through Freq-MixStyle: each clip takes over part of
    another's mean and deviation per band, so that the student relies less on a device's colour."""
    mixstyle_alpha: float = within(POSITIVE, 0.4)
    """How evenly Freq-MixStyle mixes: the share of a clip's own statistics is drawn from Beta(alpha, alpha);
    above 0, and the larger, the nearer to halves."""
    mixup_alpha: float = within(NOT_NEGATIVE, 0.3)
    """How evenly mixup blends two clips and their labels: the share of the first is drawn from Beta(alpha,
    alpha); the larger, the nearer to halves; 0 is off."""
    spec_mask_share: float = within(PART, 0.0)
    """SpecAugment's masks blank up to this share, from 0 to 1, of the bands and of the frames; 0 is off.
    Against overfitting of large networks (Park et al., 2019)."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam with cosine warm restarts."""

    lr: float = within(POSITIVE, 0.004)
    """Learning rate at the start of each cosine. From there it falls to nearly 0 within a cycle of epochs."""
    batch_size: int = within(COUNT, 256)
    """Clips per step of the optimizer, in each process."""
    max_epochs: int = within(NOT_NEGATIVE, 150)
    """Epochs that the training takes, best where a cycle ends: with the restarts below after 10, 30, 70, 150
    or 310."""
    restart_epochs: int = within(NOT_NEGATIVE, 10)
    """Epochs of the first cycle, after which the rate jumps back to lr; 0 keeps the rate as it is."""
    restart_factor: int = within(COUNT, 2)
    """Each cycle is so many times as long as the one before; a whole number from 1."""


@dataclass(frozen=True)
class BeatsOptimConfig:
    """AdamW for fine-tuning BEATs: the rate rises exponentially for some epochs and then falls linearly."""

    lr: float = within(POSITIVE, 1e-5)
    """Highest learning rate, reached when warm-up ends."""
    weight_decay: float = within(NOT_NEGATIVE, 0.01)
    """AdamW takes this share, times the learning rate, off every weight at each step: against overfitting; 0
    is off."""
    betas: tuple[float, float] = within(PART, (0.9, 0.98))
    """Two shares below 1 that AdamW keeps at each step: of the mean of gradients, and of that of their
    squares."""
    batch_size: int = within(COUNT, 128)
    """Clips per step of the optimizer, in each process."""
    max_epochs: int = within(NOT_NEGATIVE, 30)
    """Epochs that the training takes."""
    warmup_epochs: int = within(NOT_NEGATIVE, 4)
    """Epochs in which the rate rises to its highest."""
    final_share: float = within(SHARE, 0.005)
    """Share of the highest rate, from 0 to 1, to which it has fallen at the end."""


@dataclass(frozen=True)
class TrainerConfig(Loading):
    """What Lightning trains on, and what it shows."""

    accelerator: str = aside("auto")
    """Kind of processor that trains: cpu, gpu, mps, ... of Lightning, or auto, the fastest there is."""
    devices: str = "1"
    """How many processors of that kind train together, a process on each, or auto for all of them. With 1, on
    one machine, what a scheduler says of processes (RANK, SLURM_PROCID) is passed over."""
    strategy: str = "auto"
    """How several processes work together: ddp or another strategy of Lightning; auto chooses one."""
    num_nodes: int = within(COUNT, 1)
    """How many machines train together, with as many processes on each."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    """Bits of the network's arithmetic, as Lightning names them: 16-mixed and bf16-mixed take less time and
    memory on a GPU. Log-mels are always computed in 32 bits."""
    accumulate_batches: int = within(COUNT, 1)
    """Batches whose gradients are added up before each step, where a GPU holds no larger batch."""
    score: Score = "mean_over_devices"
    """The accuracy on validation clips that chooses checkpoints and sweeps' settings: the mean over devices
    of their macro averages, or `plain`, that of all clips together,
    of which three in four of TAU's are of device a."""
    system_metrics: bool = aside(False)
    """Samples processor, memory, disk, network and GPU every 10 seconds
    (MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL), which the run's page shows as system metrics; of a GPU by the
    package nvidia-ml-py (of AMD's pyrsmi)."""
    progress_bar: bool = aside(True)
    """Shows how far an epoch has come; a line per epoch is printed either way."""

    @property
    def several_processes(self) -> bool:
        """Whether more than one is asked for, or as many as there are processors."""
        return self.devices != "1" or self.num_nodes != 1
