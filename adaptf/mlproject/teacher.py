"""Stage `teacher`: fine-tunes one BEATs teacher on the scenes and predicts the training clips.

Without a BEATs file a small convolutional network, trained from scratch, takes the teacher's place; it is called what it is in
the run, its tags and every table.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.hashes import sha256_of
from adaptf.data.teacher_logits import TeacherLogits, write_teacher_logits
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.mlproject.config import AugmentConfig, BeatsOptimConfig, MelConfig, OptimConfig, TrainerConfig, upstream
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, load_prepared
from adaptf.mlproject.fitting import SCENES, fitted_result, train_classifier
from adaptf.mlproject.stage import run_stage
from adaptf.models.beats import BeatsClassifier, BeatsFeatures, load_beats
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import BEATS, SMALL_CNN, Classifier, ModelDescription, build_classifier
from adaptf.tracking.runs import NONE, Result, StageRun

TeacherKind = Literal["ssl", "ssl_sl", "ssl_frozen"]
LOGITS = "logits.csv"
TEACHER_KIND, TEACHER_MODEL = "adaptf.teacher", "adaptf.teacher_model"


@dataclass(frozen=True)
class SmallTeacherConfig:
    """The teacher of those who have no BEATs file: a small residual network on log-mels."""

    width: int = 32
    """Channels of its first stage."""
    mel: MelConfig = MelConfig(bands=256)
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(lr=0.002, batch_size=64, max_epochs=50, restart_epochs=50)


@dataclass(frozen=True)
class TeacherConfig:
    """Fine-tunes a teacher and keeps its logits of the training clips."""

    kind: TeacherKind = "ssl"
    """ssl: all of BEATs_iter3_plus_AS2M. ssl_sl: all of ..._finetuned_on_AS2M_cpt2. ssl_frozen: the classifier of the first."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    beats_ssl_file: str = NONE
    """BEATs_iter3_plus_AS2M.pt, for ssl and ssl_frozen; `none`: the small teacher takes its place."""
    beats_ssl_sl_file: str = NONE
    """BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt, for ssl_sl; `none`: the small teacher takes its place."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.6, mixstyle_alpha=0.4, mixstyle_p=0.4)
    """Of BEATs."""
    optim: BeatsOptimConfig = BeatsOptimConfig()
    """Of BEATs."""
    small: SmallTeacherConfig = field(default_factory=SmallTeacherConfig)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of weights, order and augmentations."""


def beats_file(config: TeacherConfig) -> str:
    """The file that a teacher of this kind starts from, or `none`."""
    return config.beats_ssl_sl_file if config.kind == "ssl_sl" else config.beats_ssl_file


def beats_digest(config: TeacherConfig) -> str:
    """Digest of the BEATs file, checked before any work is done."""
    path = beats_file(config)
    if path == NONE:
        return NONE
    load_beats(path)
    return sha256_of(Path(path))


def teacher(config: TeacherConfig, run: StageRun) -> Result:
    """The best checkpoint on validation clips predicts all training and validation clips as they are."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    path = beats_file(config)
    augment: AugmentConfig = config.augment
    optim: OptimConfig | BeatsOptimConfig = config.optim
    if path == NONE:
        note = (
            f"**No BEATs file was given for '{config.kind}': the small teacher ({SMALL_CNN}), trained from scratch, takes its "
            "place.** What a student gains from it says nothing about BEATs."
        )
        classifier, augment, optim = small_teacher(config, data.classes), config.small.augment, config.small.optim
    else:
        note = f"BEATs from {path}, {'classifier only' if config.kind == 'ssl_frozen' else 'all of it fine-tuned'}."
        classifier = beats_teacher(config, data.classes)
    print(note, flush=True)
    fitted = train_classifier(
        classifier,
        run,
        train=data.clips(TRAIN),
        validation=data.clips(VALIDATION),
        devices=data.devices,
        objective=SCENES,
        augment=augment,
        optim=optim,
        trainer=config.trainer,
        seed=config.seed,
    )
    device = inference_device(config.trainer.accelerator)
    best = load_classifier(fitted.best).to(device)
    rows = data.learning_rows()
    logits = predict_logits(best, data.clip_set(rows, VALIDATION), device=device, name=f"{run.name}: logits")
    table = TeacherLogits(tuple(rows["filename"]), data.classes, logits)
    write_teacher_logits(run.folder / LOGITS, table)
    result = fitted_result(run, fitted, SCENES, note=note)
    return Result(
        metrics=result.metrics,
        files={**result.files, LOGITS: run.folder / LOGITS},
        tags={TEACHER_KIND: config.kind, TEACHER_MODEL: classifier.description.kind, "adaptf.digest": data.digest},
        note=result.note,
        summary=result.summary,
    )


def small_teacher(config: TeacherConfig, classes: tuple[str, ...]) -> Classifier:
    """The small residual network on log-mels."""
    small = config.small
    return build_classifier(
        ModelDescription(kind=SMALL_CNN, classes=classes, features=asdict(small.mel), network={"width": small.width})
    )


def beats_teacher(config: TeacherConfig, classes: tuple[str, ...]) -> Classifier:
    """BEATs with a new classifier."""
    network = BeatsClassifier(load_beats(beats_file(config)), classes=len(classes), freeze_encoder=config.kind == "ssl_frozen")
    settings = {name: value for name, value in network.cfg.items() if name != "classes"}
    return Classifier(ModelDescription(kind=BEATS, classes=classes, network=settings), BeatsFeatures(), network)


if __name__ == "__main__":
    run_stage(teacher, TeacherConfig, inputs=beats_digest)
