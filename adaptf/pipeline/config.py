"""Settings that several stages share. The dataclasses of this folder are the only place of defaults: our recipe."""

from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from adaptf.data.cache.shards import SampleType
from adaptf.data.device_memory import OnDevice
from adaptf.data.responses import ResponseLevel
from adaptf.data.sets.tau import TrainSplit
from adaptf.errors import UserError
from adaptf.evaluation.scores import Score
from adaptf.models.keywords import network_settings, settings_taken
from adaptf.models.students.registry import TFSEPNET, find_student
from adaptf.models.students.tfsepnet.network import DEPTH, DROPOUT, WIDTH
from adaptf.training.averaging import Averaging

SHARED_SECTIONS = ("mel", "model", "trainer", "seed")
"""Sections that a preset, `main` and `sweep` give once for all stages."""


Files = Literal["none", "one", "per device"]
"""Which checkpoint files may stand in the place of a run: a file, or also a mapping or folder with one per device."""


def upstream(stage: str, **tags: str) -> str:
    """A field that names the run of another stage: a run id, or `latest` for the newest one that finished."""
    return field(default="latest", metadata={"stage": stage, "tags": tags})


def upstream_optional(stage: str) -> str:
    """The same, or `none`."""
    return field(default="latest", metadata={"stage": stage, "tags": {}, "optional": True})


def upstream_model(stage: str, *, files: Files = "one", optional: bool = False) -> str:
    """A field that names the run of another stage, or checkpoint files; `optional`: or `none`."""
    return field(default="latest", metadata={"stage": stage, "tags": {}, "files": files, "optional": optional})


def upstream_each(stage: str, tag: str, *, optional: bool = False) -> str:
    """A field that names several runs of another stage: ids separated by commas, or `latest` for the newest of each `tag`;
    `optional`: or `none`."""
    return field(default="latest", metadata={"stage": stage, "each": tag, "optional": optional})


def upstream_several(stage: str, *, files: Files = "none") -> str:
    """A field that names one run of another stage or several with other seeds: ids separated by commas, or that of a run over
    `seeds`, which stands for all of its runs; or checkpoint files, or `none`."""
    metadata = {"stage": stage, "tags": {}, "several": True, "files": files, "optional": True}
    return field(default="latest", metadata=metadata)


def path_field(default: str, **metadata: Any) -> str:
    """A field that holds a path, or `none`: given on a command line it becomes absolute (adaptf/paths.py)."""
    return field(default=default, metadata={"path": True, **metadata})


def file_or_name(default: str) -> str:
    """A field that may hold the path of a file or of a folder, or several, and else names something."""
    return field(default=default, metadata={"file or name": True})


def content_folders(config: Any) -> list[Path]:
    """Folders whose files decide a stage's result as its settings do."""
    found = []
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            found += content_folders(value)
        elif "content" in one.metadata and Path(value).is_dir():
            found.append(Path(value))
    return found


def upstream_fields(config: Any) -> list[Field[Any]]:
    """Fields that name runs of other stages."""
    return [field for field in fields(config) if "stage" in field.metadata]


@dataclass(frozen=True)
class DataConfig:
    """The clips."""

    root: str = path_field("none")
    """Folder of TAU Urban Acoustic Scenes 2022 Mobile, of AudioSet, or a CSV file with filename, scene, device."""
    train_split: TrainSplit = "25"
    """Percent of TAU's training clips, one of the official splits. The challenge allows 25 and less."""
    challenge: bool = True
    """Refuses what the challenge forbids; false for work outside of it."""
    scenes: tuple[str, ...] = ()
    """Scene names in the order of the logits; an empty list means those of the data, sorted."""
    validation_share: float = 0.15
    """Share of the training clips that is cut out, by location, for choosing checkpoints."""
    test_share: float = 0.2
    """Share cut out, by location, for testing where the data has no test clips of its own."""
    split_seed: int = 0
    """Another seed cuts at other locations."""
    audioset_clip_seconds: float = 10.0
    """Length to which AudioSet clips are cut or padded in the cache, in seconds; training draws one second of it."""
    cache: str = path_field("cache")
    """Folder of the waveform cache; `cache`, also where it is given, is one in the project's folder."""
    sample_type: SampleType = "float32"
    """Of the waveform cache: float32 is exact; int16 takes half the space and changes log-mels a little (docs/data.md)."""
    workers: int = 2
    """Processes that decode."""


@dataclass(frozen=True)
class MelConfig:
    """The log-mel input."""

    bands: int = 512
    """Mel bands from 0 Hz to half the sample rate."""
    sample_rate: int = 32000
    """In Hz."""
    n_fft: int = 4096
    """Length of the Fourier transform in samples."""
    window_samples: int = 3072
    """Length of the Hann window in samples."""
    hop_samples: int = 500
    """Distance of two frames in samples; 500 gives 64 frames a second."""


@dataclass(frozen=True)
class ModelConfig:
    """The student. Raises UserError for one that there is not, and for a setting that it does not have."""

    kind: str = TFSEPNET
    """tfsepnet, or another student of adaptf/models/students/registry.py."""
    width: int = WIDTH
    """Channels of the first blocks."""
    depth: int = DEPTH
    """Of tfsepnet the entries of the layout that are used, 17 at most; of another student what it takes for its depth."""
    dropout: float = DROPOUT
    """Dropout in each block."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the student takes, as in {groups: 4}."""

    def __post_init__(self) -> None:
        self.network_settings()

    def network_settings(self) -> dict[str, Any]:
        """Keyword arguments of the student's network."""
        network = find_student(self.kind).network
        taken = settings_taken(network)
        for name in ("width", "depth", "dropout"):
            if name not in taken and getattr(self, name) != getattr(ModelConfig, name):
                raise UserError(f"model.{name}: {self.kind} has none, it takes {', '.join(taken) or 'no settings'}")
        shared = {"width": self.width, "depth": self.depth, "dropout": self.dropout}
        return network_settings(network, shared=shared, own=self.settings, what="model.settings")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations of training batches."""

    dir_p: float = 0.4
    """Probability per clip of a device impulse response (DIR)."""
    dir_devices: tuple[str, ...] = ("a",)
    """Devices whose clips get impulse responses; an empty list means all, as the default does for data without such training
    clips."""
    dir_p_of: dict[str, float] = field(default_factory=dict)
    """Probabilities that take the place of dir_p for clips of single devices, as in {b: 0.1, "s1,s2,s3": 0.2}, whether they
    are in dir_devices or not."""
    dir_folder: str = path_field("none", content=True)
    """Folder of impulse responses such as MicIRP; `none` takes simulated microphones."""
    dir_level: ResponseLevel = "unit_energy"
    """Of the folder's responses. unit_energy: each is scaled to an energy of 1, as simulated microphones are. as_recorded: each
    has its file's gain; those of MicIRP differ by up to 21 dB."""
    mixstyle_p: float = 0.8
    """Probability per batch of Freq-MixStyle."""
    mixstyle_alpha: float = 0.4
    """Freq-MixStyle's share is drawn from Beta(alpha, alpha)."""
    mixup_alpha: float = 0.3
    """Mixup's share is drawn from Beta(alpha, alpha); 0 is off."""
    spec_mask_share: float = 0.0
    """SpecAugment's masks take up to this share of the bands and of the frames; 0 is off. Against overfitting of large networks
    (Park et al., 2019)."""
    time_roll_seconds: float = 0.0
    """Clips are rolled by up to so much in either direction; 0 is off. More starts of a clip from the same recordings
    (Schmid et al., 2023)."""


@dataclass(frozen=True)
class AverageConfig:
    """Averaging of weights over the last epochs: flatter minima generalise better, at no cost in serving."""

    kind: Averaging = "none"
    """swa: equal average over the last epochs (Izmailov et al., 2018). ema: exponential moving average over all steps
    (Tarvainen and Valpola, 2017)."""
    share: float = 0.25
    """Share of the epochs, at the end, that swa averages."""
    ema_decay: float = 0.999
    """What ema keeps of its average at each step."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam with cosine warm restarts."""

    lr: float = 0.004
    """Learning rate at the start of each cosine."""
    batch_size: int = 256
    """Clips per step (and process)."""
    max_epochs: int = 150
    """Epochs. With the restarts below cycles end after 10, 30, 70, 150 and 310 epochs."""
    restart_epochs: int = 10
    """Epochs until the first restart; 0 keeps the rate as it is."""
    restart_factor: int = 2
    """Each cycle is so many times as long as the one before."""
    average: AverageConfig = AverageConfig()


@dataclass(frozen=True)
class BeatsOptimConfig:
    """AdamW for fine-tuning BEATs: the rate rises exponentially for some epochs and then falls linearly."""

    lr: float = 1e-5
    """Highest learning rate."""
    weight_decay: float = 0.01
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    batch_size: int = 128
    """Clips per step (and process)."""
    max_epochs: int = 30
    """Epochs."""
    warmup_epochs: int = 4
    """Epochs until the highest rate."""
    final_share: float = 0.005
    """The share of the highest rate towards which it falls."""
    layer_decay: float = 1.0
    """Each layer learns at so many times the rate of the one above it; 1 is off. Keeps what lower layers know (Howard and
    Ruder, 2018)."""
    average: AverageConfig = AverageConfig()


@dataclass(frozen=True)
class TrainerConfig:
    """What Lightning trains on, and what it shows."""

    accelerator: str = "auto"
    """cpu, gpu, mps, ... or auto."""
    devices: str = "1"
    """Number of devices (processes), or auto for all of them."""
    strategy: str = "auto"
    """auto, ddp, ..."""
    num_nodes: int = 1
    """Machines."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    """Arithmetic of the network; features are always 32 bit."""
    accumulate_batches: int = 1
    """Batches whose gradients are added up before each step, where a GPU holds no larger batch."""
    workers: int = 2
    """Processes that read batches ahead; 0 reads in the training process."""
    pin_memory: bool = False
    """Page-locked batches, for copies to a GPU that overlap with work."""
    keep_on_device: OnDevice = "auto"
    """Training clips in the memory of the training device; auto: on a GPU where they take at most half of what is free."""
    log_mel_gb: float = 1.0
    """Gigabytes of memory, in each process, for log-mels that are computed once instead of in every epoch: of validation clips,
    and of training clips where no augmentation changes their waveforms. 0: none. A clip takes 131 kB: TAU's validation clips
    0.7 GB, its training clips 3.9 GB."""
    score: Score = "mean_over_devices"
    """The accuracy on validation clips that chooses checkpoints, sweeps' settings and how long `unknown` trains: the mean over
    devices of their macro averages, or `plain`, that of all clips together, of which three in four of TAU's are of device a."""
    progress_bar: bool = True
    """A bar within the epoch beside the line per epoch."""
    tensorboard: bool = False
    """Writes TensorBoard events too, as an artifact of the run."""
    validate_every_epochs: int = 1
    """Epochs from one validation to the next."""
