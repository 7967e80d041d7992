"""Stage `teacher`: a teacher learns the scenes and predicts the training clips.

Without the file that it starts from a small convolutional network, trained from scratch, takes the teacher's
place; it is called what it is in the run, its tags and every table.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.embeddings import cached_embeddings
from adaptf.data.teacher_logits import TeacherLogits, write_teacher_logits
from adaptf.errors import UserError
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import prediction_table
from adaptf.files import sha256_of
from adaptf.models.checkpoint import load_classifier, load_network_weights, save_classifier
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.models.keywords import network_settings
from adaptf.models.teachers.registry import PUBLISHED, SMALL_CNN, Teacher, check_kind, find_teacher
from adaptf.models.teachers.small_cnn import WIDTH
from adaptf.pipeline.artifacts import (
    BEST_ACCURACY,
    DATA_KIND,
    LOGITS,
    SCENES_KIND,
    TEACHER_KIND,
    TEACHER_MODEL,
)
from adaptf.pipeline.checks import check_training
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
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.folds import out_of_fold, out_of_fold_logits
from adaptf.pipeline.objectives import SCENES
from adaptf.pipeline.published import PublishedConfig, digest_of_published, published
from adaptf.pipeline.ranges import COUNT, within
from adaptf.pipeline.several import OverSeveral, with_fold
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import with_predictions, with_validation_tables
from adaptf.tracking.runs import NONE, Result, StageRun, digest, is_process_zero
from adaptf.training.fit import Fitted

ON_EMBEDDINGS = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0)
"""What can't be done to embeddings any more is off."""


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


def teacher(config: TeacherConfig, run: StageRun) -> Result:
    """The best checkpoint on validation clips predicts all learning clips as they are; or others did."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    is_published = config.kind == PUBLISHED
    if is_published:
        result, logits = published(config.published, run, data, config.trainer.score)
    else:
        result, logits = learn(config, run, data)
    rows = data.learning_rows()
    table = TeacherLogits(
        tuple(rows["filename"]), data.classes, logits, teacher_run=run.run_id, data_digest=data.digest
    )
    if not is_process_zero():
        return Result()
    write_teacher_logits(run.folder / LOGITS, table)
    heard = (rows["split"] == VALIDATION).to_numpy()
    settings = {network_kind(config): prediction_table(rows[heard], logits[heard], data.classes)}
    result = with_validation_tables(result, data, settings, chose=not is_published)
    return _as_teacher(with_predictions(result, run, settings), config, run)


def _as_teacher(result: Result, config: TeacherConfig, run: StageRun) -> Result:
    """The result with the logits that lie in the run's folder, and whose they are."""
    return replace(
        result,
        files={**result.files, LOGITS: run.folder / LOGITS},
        tags={TEACHER_KIND: config.kind, TEACHER_MODEL: network_kind(config)},
    )


def teacher_over_folds(config: TeacherConfig, children: Mapping[int, str], run: StageRun) -> Result:
    """With the logits of each clip by the teacher that has not learnt from its place."""
    setting = network_kind(config)
    result = out_of_fold(config, children, run, settings=[setting])
    write_teacher_logits(run.folder / LOGITS, out_of_fold_logits(config, run, setting))
    return _as_teacher(result, config, run)


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


def fresh_network(config: TeacherConfig, *, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network before it learns, and the settings that rebuild it."""
    chosen, file = start(config)
    make = chosen.from_file or chosen.network
    settings = network_settings(
        make, shared={"width": config.small.width}, own=config.settings, what="settings"
    )
    network: Any = make(*([file] if chosen.from_file else []), classes=classes, **settings)
    return network, network.settings if chosen.from_file else settings


def learn(config: TeacherConfig, run: StageRun, data: PreparedData) -> tuple[Result, NDArray[np.float32]]:
    """What the training leaves, and the best checkpoint's logits (learning clips, classes)."""
    note = what_it_is(config)
    print(note, flush=True)
    fitted, logits = fit_and_predict(config, run, data)
    return fitted_result(run, fitted, note=note), logits


def fit_and_predict(
    config: TeacherConfig, run: StageRun, data: PreparedData
) -> tuple[Fitted, NDArray[np.float32]]:
    """The checkpoints, and the best one's logits (learning clips, classes)."""
    chosen, _ = start(config)
    network, settings = fresh_network(config, classes=len(data.classes))
    heard = asdict(config.small.mel) if chosen.features is LogMel else getattr(network, "hears", {})
    description = ModelDescription(kind=chosen.name, classes=data.classes, features=heard, network=settings)
    classifier = Classifier(description, chosen.features(**heard), network)
    if chosen.embedding_code and config.frozen.cache_embeddings:
        return on_embeddings(config, run, data, classifier)
    fitted = train_on_clips(config, run, data, classifier)
    return fitted, logits_of(config, run, data, load_classifier(fitted.best))


def on_embeddings(
    config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier
) -> tuple[Fitted, NDArray[np.float32]]:
    """The last layer on embeddings, computed once: checkpoints of the whole teacher, and its logits."""
    clips = embedded(config, run, data, classifier)
    split = data.learning_rows()["split"].to_numpy()
    network: Any = classifier.network
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
    return replace(fitted, best=best, last=last), logits


def unused_on_embeddings(augment: AugmentConfig) -> str:
    """Which augmentations of clips are asked for in vain, as a sentence; empty where none is."""
    names = ("dir_p", "dir_p_of", "mixstyle_p", "spec_mask_share", "time_roll_seconds")
    asked = {name: getattr(augment, name) for name in names}
    vain = [f"frozen.augment.{name} = {value}" for name, value in asked.items() if value]
    return f" Unused, because it needs frozen.cache_embeddings=false: {', '.join(vain)}." if vain else ""


def with_encoder(run: StageRun, classifier: Classifier, head: Classifier, weights: Path) -> Path:
    """Loads these weights into the head, the classifier's last layer, and writes all of the classifier."""
    epoch = load_network_weights(head.network, weights)
    return save_classifier(classifier, run.folder / "with_encoder" / weights.name, epoch=epoch)


def embedded(config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier) -> ClipSet:
    """All learning clips as embeddings, kept beside the waveforms for other seeds and settings."""
    chosen, file = start(config)
    code = chosen.embedding_code() if chosen.embedding_code else ()
    device = inference_device(config.trainer.accelerator)
    classifier.eval().to(device)
    network: Any = classifier.network
    rows = data.learning_rows()
    embeddings = cached_embeddings(
        lambda waveform: network.embed(classifier.features(waveform)),
        data.cached(rows),
        list(rows["key"]),
        folder=data.waveforms.folder / "embeddings",
        encoder_digest=digest(sha256_of(Path(file)), *code),
        device=device,
        name=f"{run.name}: embeddings",
    )
    classifier.to("cpu")
    return replace(data.clip_set(rows, VALIDATION), source=embeddings)


def train_on_clips(
    config: TeacherConfig, run: StageRun, data: PreparedData, classifier: Classifier
) -> Fitted:
    """Macro-average accuracy on validation clips chooses the checkpoint."""
    settings = learning_settings(config)
    return train_classifier(
        classifier,
        run,
        data,
        Recipe(
            settings.augment,
            settings.optim,
            replace(config.trainer, strategy=strategy_of(config)),
            config.seed,
        ),
        SCENES,
        train=data.clips(TRAIN),
        validation=data.clips(VALIDATION),
    )


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


def logits_of(
    config: TeacherConfig, run: StageRun, data: PreparedData, best: Classifier
) -> NDArray[np.float32]:
    """(learning clips, classes)"""
    device = inference_device(config.trainer.accelerator)
    clips = data.clip_set(data.learning_rows(), VALIDATION)
    return predict_logits(best.to(device), clips, device=device, name=f"{run.name}: logits")


TEACHER = Stage(
    "teacher",
    run=teacher,
    config=TeacherConfig,
    check=check_training,
    reads=file_digest,
    words=lambda config: [f"{config.kind} ({network_kind(config)})"],
    score=BEST_ACCURACY,
    folds=OverSeveral(with_fold, teacher_over_folds),
)


if __name__ == "__main__":
    TEACHER.main()
