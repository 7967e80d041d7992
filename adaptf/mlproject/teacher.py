"""Stage `teacher`: fine-tunes one BEATs teacher on the scenes and predicts the training clips.

Without a BEATs file a small convolutional network, trained from scratch, takes the teacher's place; it is called what it is in
the run, its tags and every table.
"""

import inspect
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adaptf.audio import fbank, kaldi_mel
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.embeddings import cached_embeddings
from adaptf.data.hashes import sha256_of
from adaptf.data.teacher_logits import TeacherLogits, write_teacher_logits
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import prediction_table
from adaptf.models import beats
from adaptf.models.beats import BeatsClassifier, BeatsFeatures
from adaptf.models.beats_file import load_beats
from adaptf.models.checkpoint import load_classifier, load_network_weights, save_classifier
from adaptf.models.classifier import BEATS, SMALL_CNN, Classifier, ModelDescription, build_classifier
from adaptf.pipeline.artifacts import DATA_KIND, LOGITS, SCENES_KIND, TEACHER_KIND, TEACHER_MODEL
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import AugmentConfig, BeatsOptimConfig, MelConfig, OptimConfig, TrainerConfig, path_field, upstream
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.objectives import SCENES
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import with_validation_tables
from adaptf.tracking.runs import NONE, Result, StageRun, digest, is_process_zero
from adaptf.training.fit import Fitted

TeacherKind = Literal["ssl", "ssl_sl", "ssl_frozen"]
ON_EMBEDDINGS = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0)
"""What can't be done to embeddings any more is off."""


@dataclass(frozen=True)
class SmallTeacherConfig:
    """The teacher of those who have no BEATs file: a small residual network on log-mels."""

    width: int = 32
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
    """Computes the encoder's output of each clip once and keeps it beside the waveforms: an epoch then takes seconds, and of
    the augmentations mixup alone remains, on embeddings (Verma et al., 2019). false runs the encoder in every epoch."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, spec_mask_share=0.2)
    optim: OptimConfig = OptimConfig(lr=0.001, max_epochs=60, restart_epochs=0)


@dataclass(frozen=True)
class TeacherConfig:
    """Fine-tunes a teacher and keeps its logits of the training clips."""

    kind: TeacherKind = "ssl"
    """ssl: all of BEATs_iter3_plus_AS2M. ssl_sl: all of ..._finetuned_on_AS2M_cpt2. ssl_frozen: the classifier of the first."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    beats_ssl_file: str = path_field(NONE)
    """BEATs_iter3_plus_AS2M.pt, for ssl and ssl_frozen; `none`: the small teacher takes its place."""
    beats_ssl_sl_file: str = path_field(NONE)
    """BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt, for ssl_sl; `none`: the small teacher takes its place."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.6, mixstyle_alpha=0.4, mixstyle_p=0.4, spec_mask_share=0.2)
    """Of BEATs."""
    optim: BeatsOptimConfig = BeatsOptimConfig()
    """Of BEATs."""
    activation_checkpointing: bool = False
    """Computes BEATs' activations again in the backward pass: a third more time for much less memory (Chen et al., 2016)."""
    frozen: FrozenTeacherConfig = FrozenTeacherConfig()
    small: SmallTeacherConfig = field(default_factory=SmallTeacherConfig)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for new weights, the order of the clips and their
    augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""


def beats_file(config: TeacherConfig) -> str:
    """The file that a teacher of this kind starts from, or `none`."""
    return config.beats_ssl_sl_file if config.kind == "ssl_sl" else config.beats_ssl_file


def network_kind(config: TeacherConfig) -> str:
    """Which network it is."""
    return SMALL_CNN if beats_file(config) == NONE else BEATS


def beats_digest(config: TeacherConfig) -> str:
    """Digest of the BEATs file, checked before any work is done."""
    path = beats_file(config)
    if path == NONE:
        return NONE
    load_beats(path, finetuned=config.kind == "ssl_sl")
    return sha256_of(Path(path))


def teacher(config: TeacherConfig, run: StageRun) -> Result:
    """The best checkpoint on validation clips predicts all training and validation clips as they are."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    if beats_file(config) == NONE:
        fitted, logits, note = small_teacher(config, run, data)
    elif config.kind == "ssl_frozen" and config.frozen.cache_embeddings:
        fitted, logits, note = frozen_teacher(config, run, data)
    else:
        fitted, logits, note = beats_teacher(config, run, data)
    rows = data.learning_rows()
    table = TeacherLogits(tuple(rows["filename"]), data.classes, logits, teacher_run=run.run_id, data_digest=data.digest)
    if is_process_zero():
        write_teacher_logits(run.folder / LOGITS, table)
    heard = (rows["split"] == VALIDATION).to_numpy()
    predictions = prediction_table(rows[heard], logits[heard], data.classes)
    result = with_validation_tables(fitted_result(run, fitted, note=note), data, {network_kind(config): predictions})
    return replace(
        result,
        files={**result.files, LOGITS: run.folder / LOGITS},
        tags={TEACHER_KIND: config.kind, TEACHER_MODEL: network_kind(config)},
    )


def small_teacher(config: TeacherConfig, run: StageRun, data: PreparedData) -> tuple[Fitted, NDArray[np.float32], str]:
    """The small residual network on log-mels: checkpoints, logits, and a note that says what it is."""
    note = (
        f"**No BEATs file was given for '{config.kind}': the small teacher ({SMALL_CNN}), trained from scratch, takes its "
        "place.** What a student gains from it says nothing about BEATs."
    )
    print(note, flush=True)
    small = config.small
    network = {"width": small.width}
    description = ModelDescription(kind=SMALL_CNN, classes=data.classes, features=asdict(small.mel), network=network)
    fitted = train_on_clips(config, run, data, build_classifier(description), small.augment, small.optim)
    return fitted, logits_of(config, run, data, load_classifier(fitted.best)), note


def beats_teacher(config: TeacherConfig, run: StageRun, data: PreparedData) -> tuple[Fitted, NDArray[np.float32], str]:
    """BEATs on augmented clips; with a frozen encoder its settings are those of `frozen`."""
    frozen = config.kind == "ssl_frozen"
    note = f"BEATs from {beats_file(config)}, {'classifier only' if frozen else 'all of it fine-tuned'}."
    print(note, flush=True)
    augment = config.frozen.augment if frozen else config.augment
    optim = config.frozen.optim if frozen else config.optim
    classifier, _ = beats_classifier(config, data.classes)
    fitted = train_on_clips(config, run, data, classifier, augment, optim)
    return fitted, logits_of(config, run, data, load_classifier(fitted.best)), note


def frozen_teacher(config: TeacherConfig, run: StageRun, data: PreparedData) -> tuple[Fitted, NDArray[np.float32], str]:
    """The linear layer behind BEATs, on embeddings that are computed once."""
    note = f"BEATs from {beats_file(config)}, classifier only, on embeddings of the clips as they are."
    note += unused_on_embeddings(config.frozen.augment)
    print(note, flush=True)
    classifier, network = beats_classifier(config, data.classes)
    clips = embedded(config, run, data, classifier, network)
    split = data.learning_rows()["split"].to_numpy()
    head = Classifier(classifier.description, nn.Identity(), network.classifier)
    augment = replace(ON_EMBEDDINGS, mixup_alpha=config.frozen.augment.mixup_alpha)
    fitted = train_classifier(
        head,
        run,
        data,
        Recipe(augment, config.frozen.optim, config.trainer, config.seed),
        SCENES,
        train=clips.part(split == TRAIN),
        validation=clips.part(split == VALIDATION),
    )
    last = with_encoder(run, classifier, head, fitted.last)
    best = with_encoder(run, classifier, head, fitted.best)
    logits = predict_logits(network.classifier.eval().to("cpu"), clips, name=f"{run.name}: logits")
    return replace(fitted, best=best, last=last), logits, note


def unused_on_embeddings(augment: AugmentConfig) -> str:
    """Which augmentations of clips are asked for in vain, as a sentence; empty where none is."""
    names = ("dir_p", "dir_p_of", "mixstyle_p", "spec_mask_share", "time_roll_seconds")
    asked = {name: getattr(augment, name) for name in names}
    vain = [f"frozen.augment.{name} = {value}" for name, value in asked.items() if value]
    return f" Unused, because it needs frozen.cache_embeddings=false: {', '.join(vain)}." if vain else ""


def with_encoder(run: StageRun, classifier: Classifier, head: Classifier, weights: Path) -> Path:
    """Loads these weights into the head, which is the last layer of the classifier, and writes all of the classifier."""
    epoch = load_network_weights(head.network, weights)
    return save_classifier(classifier, run.folder / "with_encoder" / weights.name, epoch=epoch)


def embedded(
    config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier, network: BeatsClassifier
) -> ClipSet:
    """All learning clips as embeddings, kept beside the waveforms for other seeds and settings."""
    device = inference_device(config.trainer.accelerator)
    classifier.eval().to(device)
    rows = data.learning_rows()
    embeddings = cached_embeddings(
        lambda waveform: network.embed(classifier.features(waveform)),
        data.cached(rows),
        list(rows["key"]),
        folder=data.waveforms.folder / "embeddings",
        encoder_digest=encoder_digest(config),
        device=device,
        name=f"{run.name}: embeddings",
    )
    classifier.to("cpu")
    return replace(data.clip_set(rows, VALIDATION), source=embeddings)


def encoder_digest(config: TeacherConfig) -> str:
    """Of all that makes an embedding from a clip: the BEATs file, the code of features and encoder, the libraries under it."""
    code = (inspect.getsource(module) for module in (kaldi_mel, fbank, beats))
    return digest(
        sha256_of(Path(beats_file(config))), *code, *(version(package) for package in ("torch", "torchaudio", "speechbrain"))
    )


def beats_classifier(config: TeacherConfig, classes: tuple[str, ...]) -> tuple[Classifier, BeatsClassifier]:
    """BEATs with a new classifier, whole and its network alone."""
    network = BeatsClassifier(
        load_beats(beats_file(config)),
        classes=len(classes),
        freeze_encoder=config.kind == "ssl_frozen",
        activation_checkpointing=config.activation_checkpointing,
    )
    settings = {name: value for name, value in network.cfg.items() if name != "classes"}
    return Classifier(ModelDescription(kind=BEATS, classes=classes, network=settings), BeatsFeatures(), network), network


def train_on_clips(
    config: TeacherConfig,
    run: StageRun,
    data: PreparedData,
    classifier: Classifier,
    augment: AugmentConfig,
    optim: OptimConfig | BeatsOptimConfig,
) -> Fitted:
    """Macro-average accuracy on validation clips chooses the checkpoint."""
    return train_classifier(
        classifier,
        run,
        data,
        Recipe(augment, optim, replace(config.trainer, strategy=strategy_of(config)), config.seed),
        SCENES,
        train=data.clips(TRAIN),
        validation=data.clips(VALIDATION),
    )


def strategy_of(config: TeacherConfig) -> str:
    """BEATs drops whole layers while it trains, whose weights then get no gradient: plain ddp waits for it in vain."""
    waits = config.trainer.strategy == "ddp" and beats_file(config) != NONE
    return "ddp_find_unused_parameters_true" if waits else config.trainer.strategy


def logits_of(config: TeacherConfig, run: StageRun, data: PreparedData, best: Classifier) -> NDArray[np.float32]:
    """(learning clips, classes)"""
    device = inference_device(config.trainer.accelerator)
    clips = data.clip_set(data.learning_rows(), VALIDATION)
    return predict_logits(best.to(device), clips, device=device, name=f"{run.name}: logits")


TEACHER = Stage(
    "teacher",
    run=teacher,
    config=TeacherConfig,
    check=check_training,
    reads=beats_digest,
    words=lambda config: [f"{config.kind} ({network_kind(config)})"],
    score="best/accuracy",
)


if __name__ == "__main__":
    TEACHER.main()
