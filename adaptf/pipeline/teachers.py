"""Which teacher the settings mean, what it starts from, and how it learns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from adaptf.errors import UserError
from adaptf.files import sha256_of
from adaptf.models.keywords import network_settings
from adaptf.models.teachers.registry import PUBLISHED, SMALL_CNN, Teacher, check_kind, find_teacher
from adaptf.models.teachers.small_cnn import WIDTH
from adaptf.pipeline.artifacts import DATA_KIND, SCENES_KIND
from adaptf.pipeline.config import (
    AugmentConfig,
    BeatsOptimConfig,
    MelConfig,
    OptimConfig,
    TrainerConfig,
    file_or_name,
    path_field,
    upstream,
)
from adaptf.pipeline.published import PublishedConfig, digest_of_published
from adaptf.pipeline.ranges import COUNT, within
from adaptf.tracking.runs import NONE, digest


@dataclass(frozen=True)
class SmallTeacherConfig:
    """A teacher trained from scratch on log-mels, such as the small network in the place of BEATs."""

    width: int = within(COUNT, WIDTH)
    """Channels of its first stage."""
    mel: MelConfig = MelConfig(bands=256)
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(lr=0.005, batch_size=64, max_epochs=50, restart_epochs=50)


@dataclass(frozen=True)
class FrozenTeacherConfig:
    """BEATs whose encoder stays as it is (ssl_frozen): only the linear layer behind it learns.

    The settings are those of the public trainer's configuration for it.
    """

    cache_embeddings: bool = True
    """Computes the encoder's output of each clip once and keeps it beside the waveforms: an epoch then takes
    seconds, and of the augmentations mixup alone remains, on embeddings (Verma et al., 2019). false runs the
    encoder in every epoch."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, spec_mask_share=0.2)
    optim: OptimConfig = OptimConfig(lr=0.001, max_epochs=60, restart_epochs=0)


@dataclass(frozen=True)
class TeacherConfig:
    """Fine-tunes a teacher and keeps its logits of the training clips."""

    kind: str = "ssl"
    """ssl: all of BEATs_iter3_plus_AS2M. ssl_sl: all of ..._finetuned_on_AS2M_cpt2. ssl_frozen: the
    classifier of the first. transformers: all of an audio classifier of that library, named by `file`.
    small_cnn: the small teacher, from scratch. cp_resnet: CP-ResNet, from scratch. published: none is
    trained, its logits are in a file. Or another one of adaptf/models/teachers/registry.py."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    beats_ssl_file: str = path_field(NONE)
    """BEATs_iter3_plus_AS2M.pt, for ssl and ssl_frozen; `none`: the small teacher takes its place."""
    beats_ssl_sl_file: str = path_field(NONE)
    """BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt, for ssl_sl; `none`: the small teacher takes its
    place."""
    file: str = file_or_name(NONE)
    """Pre-trained weights of a teacher other than BEATs that starts from some. Of transformers: a folder with
    config.json, preprocessor_config.json and model.safetensors, or a name of the Hugging Face hub."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the network of a teacher takes beside the options here, as in {groups: 4}."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.6, mixstyle_alpha=0.4, mixstyle_p=0.4, spec_mask_share=0.2)
    """Of a teacher that starts from a file."""
    optim: BeatsOptimConfig = BeatsOptimConfig()
    """Of a teacher that starts from a file."""
    frozen: FrozenTeacherConfig = FrozenTeacherConfig()
    small: SmallTeacherConfig = field(default_factory=SmallTeacherConfig)
    published: PublishedConfig = PublishedConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for new weights, the order of the clips and their
    augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""

    def __post_init__(self) -> None:
        check_kind(self.kind)  # a slip is said while the command line is read


def start(config: TeacherConfig) -> tuple[Teacher, str]:
    """The teacher of this kind and the file that it starts from, `none` where it starts from scratch.

    The small one takes the place of BEATs whose file is not given. Raises UserError for an unknown kind, and
    where another one has nothing to start from.
    """
    wanted = find_teacher(config.kind)
    file = getattr(config, wanted.file_option) if wanted.from_file else NONE
    if not wanted.from_file or file != NONE:
        return wanted, file
    if wanted.file_option == Teacher.file_option:
        raise UserError(
            f"file is '{NONE}': {config.kind} starts from pre-trained weights, so it should name them"
        )
    return find_teacher(SMALL_CNN), file


def network_kind(config: TeacherConfig) -> str:
    """Which network it is; of published logits what their file is called."""
    return Path(config.published.file).stem if config.kind == PUBLISHED else start(config)[0].name


def file_digest(config: TeacherConfig) -> str:
    """Digest of the file that it starts from. Raises UserError where the file or a setting can't be used."""
    if config.kind == PUBLISHED:
        return digest_of_published(config.published)
    fresh_network(config, classes=1)
    chosen, file = start(config)
    return NONE if file == NONE else digest(*(sha256_of(path) for path in chosen.files(file)))


def fresh_network(config: TeacherConfig, *, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network before it learns, and the settings that rebuild it."""
    chosen, file = start(config)
    make = chosen.from_file or chosen.network
    settings = network_settings(
        make, shared={"width": config.small.width}, own=config.settings, what="settings"
    )
    network: Any = make(*([file] if chosen.from_file else []), classes=classes, **settings)
    return network, network.settings if chosen.from_file else settings


def what_it_is(config: TeacherConfig) -> str:
    """The note of the run."""
    chosen, file = start(config)
    if chosen is not find_teacher(config.kind):
        return (
            f"**No BEATs file was given for '{config.kind}': the small teacher ({SMALL_CNN}), trained from "
            "scratch, takes its place.** What a student gains from it says nothing about BEATs."
        )
    if not chosen.from_file:
        return f"{chosen.name}, trained from scratch."
    if not chosen.embedding_code:
        return f"{chosen.name} from {file}, all of it fine-tuned."
    on_what = f", on embeddings of the clips as they are.{unused_on_embeddings(config.frozen.augment)}"
    return f"{chosen.name} from {file}, classifier only{on_what if config.frozen.cache_embeddings else '.'}"


def unused_on_embeddings(augment: AugmentConfig) -> str:
    """Which augmentations of clips are asked for in vain, as a sentence; empty where none is."""
    names = ("dir_p", "dir_p_of", "mixstyle_p", "spec_mask_share")
    asked = {name: getattr(augment, name) for name in names}
    vain = [f"frozen.augment.{name} = {value}" for name, value in asked.items() if value]
    return f" Unused, because it needs frozen.cache_embeddings=false: {', '.join(vain)}." if vain else ""


def learning_settings(config: TeacherConfig) -> TeacherConfig | FrozenTeacherConfig | SmallTeacherConfig:
    """Those that hold the teacher's augmentations and its optimizer."""
    chosen, _ = start(config)
    if not chosen.from_file:
        return config.small
    return config.frozen if chosen.embedding_code else config


def strategy_of(config: TeacherConfig) -> str:
    """Where a step uses not all weights, which then get no gradient, plain ddp waits for it in vain."""
    waits = config.trainer.strategy == "ddp" and start(config)[0].skips_weights
    return "ddp_find_unused_parameters_true" if waits else config.trainer.strategy
