"""Stage `main`: all stages in their order, each a nested run;
what has finished with the same settings is not run again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow

from adaptf.compression.complexity import clip_complexity, over_budget
from adaptf.data.clips import UNKNOWN
from adaptf.data.sets.audioset import is_audioset
from adaptf.errors import UserError, in_section, without_passwords
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.evaluate import EVALUATE, MEANINGS, SETTINGS, EvaluateConfig, origin_of_teachers
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.predict import PREDICT, PredictConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.pretrain import PRETRAIN, PretrainConfig
from adaptf.mlproject.promote import PROMOTE, PromoteConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.classifier import build_classifier
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES
from adaptf.models.teachers.registry import PUBLISHED, check_kind
from adaptf.pipeline.artifacts import DONE, PROMOTED, SCENES_KIND, TABLES
from adaptf.pipeline.checks import check_augmented_devices
from adaptf.pipeline.config import (
    DataConfig,
    MelConfig,
    ModelConfig,
    TrainerConfig,
    path_field,
    upstream_fields,
    upstream_model,
)
from adaptf.pipeline.dataset import PreparedData, load_prepared, load_tested
from adaptf.pipeline.prediction_files import read_predictions
from adaptf.pipeline.published import published_logits
from adaptf.pipeline.several import OverSeveral, with_fold
from adaptf.pipeline.stage import Stage, execute
from adaptf.pipeline.students import student_description
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.reports.evaluation_report import report
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

EVALUATED = {
    "train_run": "train",
    "distill_run": "distill",
    "finetune_run": "finetune",
    "quantize_run": "quantize",
}
"""Field of `evaluate` -> the step that it judges."""


@dataclass(frozen=True)
class AudioSetConfig:
    """Where AudioSet lies, for pre-training."""

    root: str = path_field(NONE)
    """Folder of AudioSet; `none`: training starts from pretrain_run, or from scratch."""


@dataclass(frozen=True)
class MainConfig:
    """Runs every stage. Sections that stages share (data, mel, model, trainer, seed) are given once."""

    data: DataConfig = DataConfig()
    audioset: AudioSetConfig = AudioSetConfig()
    pretrain_run: str = upstream_model("pretrain", optional=True, default=NONE)
    """Run of `pretrain`, or a checkpoint file, from which training starts; `none`: pre-training is done here,
    where audioset.root is given."""
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers of every stage that draws some."""
    teacher_kinds: tuple[str, ...] = ("ssl", "ssl_sl", "ssl_frozen")
    """Teachers whose mean the student learns from, as in ssl,ssl_sl; the kinds are those of `teacher`. Each
    has a seed of its own: teacher.seed, plus 1 for the second, plus 2 for the third."""
    pretrain: PretrainConfig = PretrainConfig()
    train: TrainConfig = TrainConfig()
    teacher: TeacherConfig = TeacherConfig()
    distill: DistillConfig = DistillConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    register: RegisterConfig = RegisterConfig()
    promote: PromoteConfig = PromoteConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = field(default_factory=PredictConfig)
    """Files that are predicted at the end; `none`: this step is left out."""
    seeds: tuple[int, ...] = ()
    """Several seeds, as in 0,1,2: train, distill and finetune run with each of them, and one table shows
    means, intervals and which differences stand. Pre-training and teachers are shared;
    nothing is registered."""
    deploy: bool = True
    """Registers and promotes the models, and predicts; false ends with the tables."""
    repeat: bool = False
    """Runs every stage again, also those that have finished with the same settings, code and data."""

    def __post_init__(self) -> None:
        for kind in self.teacher_kinds:
            check_kind(kind)


def main(config: MainConfig, run: StageRun) -> Result:
    """A parent run whose note lists the stages' runs."""
    done: dict[str, str] = {}

    def step(stage: Stage[Any], settings: Any, *, what: str = "", name: str = "") -> str:
        what = what or stage.name
        print(f"\n=== {what} ===", flush=True)
        done[what] = execute(stage, settings, name=name, reuse=not config.repeat)
        return done[what]

    def prepared(root: str, name: str) -> str:
        return step(PREPARE, data_of(config, root), what=name, name=name)

    scenes = prepared(config.data.root, "prepare scenes")
    data = load_tested(run, scenes)  # it ends with tables of the test clips
    check_training_devices(config, data.training_devices)
    check_published(config, data)
    pretrained = config.pretrain_run
    if config.audioset.root != NONE:
        audioset = prepared(config.audioset.root, "prepare AudioSet")
        pretrained = step(PRETRAIN, replace(config.pretrain, prepare_run=audioset))
    elif pretrained == NONE:
        print(
            "\nNo AudioSet folder is given (audioset.root): there is no pre-training, train starts from "
            "scratch",
            flush=True,
        )
    trained = step(TRAIN, replace(config.train, prepare_run=scenes, pretrain_run=pretrained))
    taught_by = ",".join(
        step(TEACHER, replace(each, prepare_run=scenes), what=f"teacher {each.kind}")
        for each in teachers(config)
    )
    distilled = step(
        DISTILL, replace(config.distill, prepare_run=scenes, train_run=trained, teacher_runs=taught_by)
    )
    tuned = step(
        FINETUNE, replace(config.finetune, prepare_run=scenes, distill_run=distilled, teacher_runs=taught_by)
    )
    quantized = step(QUANTIZE, replace(config.quantize, prepare_run=scenes, finetune_run=tuned))
    judged = replace(config.evaluate, prepare_run=scenes, train_run=trained, distill_run=distilled)
    evaluated = step(EVALUATE, replace(judged, finetune_run=tuned, quantize_run=quantized))
    promoted = NONE
    if config.deploy:
        registered = step(REGISTER, replace(config.register, quantize_run=quantized, evaluate_run=evaluated))
        promoted = step(PROMOTE, replace(config.promote, register_run=registered))
        if config.predict.files != NONE:
            step(PREDICT, config.predict)
    rows = "\n".join(f"| {name} | {run_id} |" for name, run_id in done.items())
    return Result(
        metrics=runs.scores(done["evaluate"]),
        tags={f"{DONE}{name.replace(' ', '_')}": run_id for name, run_id in done.items()},
        note=f"| stage | run |\n|---|---|\n{rows}\n\n{steps_note(done['evaluate'])}",
        summary=closing_words(run, done["evaluate"], promoted),
        parts=done.values(),
    )


def data_of(config: MainConfig, root: str) -> PrepareConfig:
    """How the scenes, or AudioSet, of which there are no folds, are prepared."""
    data = config.data if root == config.data.root else replace(config.data, folds=0, fold=0)
    return PrepareConfig(replace(data, root=root))


def teachers(config: MainConfig) -> list[TeacherConfig]:
    """One of each kind; each has the seed of its place added to its own."""
    seed = config.teacher.seed
    return [
        replace(config.teacher, kind=kind, seed=seed + place)
        for place, kind in enumerate(config.teacher_kinds)
    ]


def stages_to_run(config: MainConfig) -> Iterator[tuple[Stage[Any], Any]]:
    """The stages that have settings of their own here, with these, in their order."""
    if config.audioset.root != NONE:
        yield PRETRAIN, config.pretrain
    yield TRAIN, config.train
    yield from ((TEACHER, each) for each in teachers(config))
    yield from ((DISTILL, config.distill), (FINETUNE, config.finetune), (QUANTIZE, config.quantize))
    yield EVALUATE, config.evaluate
    if config.deploy:
        yield from ((REGISTER, config.register), (PROMOTE, config.promote))


def check_training_devices(config: MainConfig, devices: Sequence[str]) -> None:
    """Raises UserError where augmentations of a later stage name a device of which there are no training
    clips."""
    for stage, settings in stages_to_run(config):
        with in_section(stage.name):
            # AudioSet tells no devices
            check_augmented_devices(settings, [UNKNOWN] if stage is PRETRAIN else devices)


def check_published(config: MainConfig, data: PreparedData) -> None:
    """Raises UserError for published logits that are not those of the data's clips."""
    with in_section("teacher"):
        for each in teachers(config):
            if each.kind == PUBLISHED:
                published_logits(each.published, data)


def steps_note(run_id: str) -> str:
    """What the page of a run shows on top."""
    return str(mlflow.get_run(run_id).data.tags.get("mlflow.note.content", ""))


def closing_words(run: StageRun, evaluated: str, promoted: str) -> str:
    """The tables, the promoted versions, and how to look at all of it."""
    tables = run.download(evaluated, TABLES).read_text()
    if promoted == NONE:
        return tables
    tags = mlflow.get_run(promoted).data.tags
    versions = {
        name.removeprefix(PROMOTED): version for name, version in tags.items() if name.startswith(PROMOTED)
    }
    lines = "\n".join(f"  {name} version {version}" for name, version in versions.items())
    return f"{tables}\n\nIn production:\n{lines}\n\nLook at it: {place_to_look(promoted)}"


def place_to_look(run_id: str) -> str:
    """The address of the run list; without a server the command that starts one comes first."""
    page = f"#/experiments/{mlflow.get_run(run_id).info.experiment_id}/runs?workflowType=machine_learning"
    uri = without_passwords(mlflow.get_tracking_uri())
    if uri.startswith("http"):
        return f"{uri}/{page}"
    return f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000/{page}"


def with_seed(config: MainConfig, seed: int) -> MainConfig:
    """Everything that the student goes through gets the seed."""
    return replace(
        not_deployed(config),
        seed=seed,
        seeds=(),
        train=replace(config.train, seed=seed),
        distill=replace(config.distill, seed=seed),
        finetune=replace(config.finetune, seed=seed),
    )


def not_deployed(config: MainConfig) -> MainConfig:
    """Where nothing is deployed a gate has nothing to stop."""
    return replace(config, deploy=False, quantize=replace(config.quantize, refuse=False))


def report_over(what: str, config: MainConfig, children: Mapping[int, str], run: StageRun) -> Result:
    """The tables of `evaluate` over the predictions of all seeds, or folds."""
    tags = [mlflow.get_run(run_id).data.tags for run_id in children.values()]
    settings = {
        setting: [read_predictions(run, one[f"{DONE}evaluate"], setting) for one in tags]
        for setting in SETTINGS.values()
    }
    data = load_prepared(run, tags[0][f"{DONE}prepare_scenes"], kind=SCENES_KIND)
    teachers = origin_of_teachers(EvaluateConfig(distill_run=tags[0][f"{DONE}distill"]))
    return report(
        settings,
        data,
        run,
        remark=f"{len(children)} {what}. {teachers}",
        run_ids={
            SETTINGS[field]: [one[f"{DONE}{stage}"] for one in tags] for field, stage in EVALUATED.items()
        },
        meanings=MEANINGS,
    )


def check(config: MainConfig) -> None:
    """Raises UserError for settings that a stage would refuse, or that don't go together,
    before the first stage begins."""
    if config.trainer.several_processes:
        raise UserError(
            f"main trains on one device, trainer.devices is {config.trainer.devices} and trainer.num_nodes "
            f"{config.trainer.num_nodes}: run the training stages one by one (mlflow run . -e train ...) to "
            "use several"
        )
    if config.repeat and (config.seeds or config.data.folds):
        raise UserError(
            "repeat goes neither with seeds nor with data.folds, which share what repeat makes anew, such as "
            "pre-training"
        )
    if config.seeds and config.data.folds:
        raise UserError(
            "seeds and data.folds don't go together in main: run the training stages one by one on a run of "
            "prepare over folds"
        )
    check_pretraining(config)
    check_refits(config)
    for stage, settings in stages_to_run(config):
        with in_section(stage.name):
            stage.check(settings)
    check_size(config)
    check_wiring(config)


def check_pretraining(config: MainConfig) -> None:
    """Raises UserError where AudioSet's folder holds none, or is given beside what is pre-trained already."""
    root, ready = config.audioset.root, config.pretrain_run
    if NONE not in (root, ready):
        raise UserError(
            f"audioset.root is {root}, pretrain_run is {ready}: give one of them. To pre-train on one data "
            "set after the other run the stage pretrain for each"
        )
    if root != NONE and not is_audioset(Path(root)):
        raise UserError(
            f"audioset.root is {root}, where there is no AudioSet (balanced_train_segments.csv). To "
            "pre-train on scenes run prepare and pretrain on them, and give main the run of pretrain as "
            "pretrain_run"
        )


def check_refits(config: MainConfig) -> None:
    """Raises UserError where a later stage would choose by the validation clips that an earlier one has
    learnt from, or would learn from every fold."""
    if config.data.folds:
        for one in (config.train, config.distill, config.finetune):
            with_fold(one, 1)
    if config.train.refit and not config.distill.refit:
        raise UserError(
            "train.refit leaves no clips by which distill could choose an epoch: set distill.refit=true too, "
            "with the number of epochs as distill.optim.max_epochs"
        )


def check_size(config: MainConfig) -> None:
    """Raises UserError for a student that `quantize` would refuse for its size, after all trainings."""
    student = build_classifier(student_description(CLASSES, config.mel, config.model))
    problems = over_budget(clip_complexity(student, config.mel.sample_rate))
    if problems and config.quantize.refuse:
        raise UserError(
            f"{config.model.kind} of {config.mel.bands} bands takes {'; '.join(problems)}: give other "
            f"settings of model or a smaller mel.bands, or quantize.refuse=false for work outside of the "
            "challenge"
        )


def files_read(config: MainConfig) -> str:
    """Digest of all that its stages read from outside of MLflow. Raises UserError for what can't be used."""
    roots = [config.data.root, *[config.audioset.root] * (config.audioset.root != NONE)]
    digests = [
        TEACHER.reads(each) for each in teachers(config)
    ]  # first: what is wrong with a file is soon said
    digests += [PREPARE.reads(data_of(config, root)) for root in roots]
    return runs.digest(*map(str, digests))


def check_wiring(config: MainConfig) -> None:
    """Raises UserError for a run or file that a section names: it would be left aside, in silence."""
    sections = {
        one.name: getattr(config, one.name)
        for one in fields(config)
        if is_dataclass(getattr(config, one.name))
    }
    named = [
        f"{name}.{one.name}"
        for name, section in sections.items()
        for one in upstream_fields(section)
        if getattr(section, one.name) != one.default
    ]
    if named:
        stage = named[0].partition(".")[0]
        raise UserError(
            f"main gives every stage the runs of those before it: leave out {', '.join(named)}, or run the "
            f"stages one by one, beginning with mlflow run . -e {stage} --env-manager local"
        )


MAIN = Stage(
    "main",
    run=main,
    config=MainConfig,
    check=check,
    reads=files_read,
    study=OverSeveral(with_seed, partial(report_over, "seeds")),
    folds=OverSeveral(
        lambda config, fold: with_fold(not_deployed(config), fold), partial(report_over, "folds")
    ),
)

if __name__ == "__main__":
    MAIN.main()
