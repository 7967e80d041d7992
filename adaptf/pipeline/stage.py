"""A stage as one value, and running it in an MLflow run. This file knows no stage."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

import mlflow
import torch
import yaml

from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError, without_passwords
from adaptf.paths import RUN_ID
from adaptf.pipeline import outside
from adaptf.pipeline.command_line import command_arguments, parse
from adaptf.pipeline.config import check_ranges, settings, upstream_fields
from adaptf.pipeline.fingerprint import fingerprint
from adaptf.pipeline.interrupts import INTERRUPTS, end_in_order, exit_code, last_words
from adaptf.pipeline.several import OVER_SEEDS, OverSeveral, folds_of
from adaptf.pipeline.system_metrics import samples_system
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.tracking import lease as leases
from adaptf.tracking import outcome, runs
from adaptf.tracking.checkpoint_files import file_tags
from adaptf.tracking.complete import COMPLETE, NOT_YET
from adaptf.tracking.lease import Lease, LeaseLost
from adaptf.tracking.outcome import Result
from adaptf.tracking.refusals import refusal
from adaptf.tracking.server import answers, wait_for_answer
from adaptf.tracking.several import FOLDS, SEEDS, Several
from adaptf.tracking.stage_run import StageRun, StopTraining, Watch, is_process_zero
from adaptf.tracking.store import open_store
from adaptf.tracking.tags import FINGERPRINT, SCORE, STAGE, UPSTREAM
from adaptf.tracking.work_folder import settle_work_root, work_folder
from adaptf.training.group import enter_group, outlive_the_others, seed_everything

_Config = TypeVar("_Config")


def _nothing(config: Any) -> None:
    """Refuses nothing."""


def _nothing_outside(config: Any) -> str:
    """Reads nothing but runs."""
    return ""


def nothing_tells(config: Any) -> None:
    """`reads` of a stage whose outcome depends on more than its settings, such as on what is in production:
    no finished run stands for a new one."""


def _no_words(config: Any) -> Iterable[str]:
    return ()


@dataclasses.dataclass(frozen=True)
class Stage(Generic[_Config]):
    """All that makes a stage. Nobody else has a branch for it."""

    name: str
    """As MLproject calls its entry point."""
    run: Callable[[_Config, StageRun], Result]
    """Does the work, for a run, and returns what it leaves there."""
    config: type[_Config]
    """Frozen dataclass: every setting with its default and its help."""
    check: Callable[[_Config], None] = _nothing
    """Raises UserError for settings that can't be used, as far as they tell it themselves,
    before any work begins."""
    fetch: Callable[[_Config], None] = _nothing
    """Brings what the stage reads to this machine, where it was asked to: a download."""
    reads: Callable[[_Config], str | None] = _nothing_outside
    """Digest of what lies outside of MLflow, such as files. None: nothing tells, so no finished run stands
    for a new one. Raises UserError for what can't be used."""
    words: Callable[[_Config], Iterable[str]] = _no_words
    """What tells a run from others of its stage, in its name, as in `T=2 w=0.02`."""
    score: str = ""
    """The metric, or the begin of those, by which lineage and lists show how good a run's model is."""
    study: OverSeveral = OVER_SEEDS
    """What a parent over several seeds makes of its children."""
    folds: OverSeveral | None = None
    """The same of a parent over folds; None: the stage takes the data of one fold alone."""

    def describe(self, config: _Config, folds: Sequence[int] = ()) -> str:
        """What a run is called where nobody names it: the parent over seeds or folds with their number."""
        name = " ".join([self.name, *self.words(config)])
        seeds = getattr(config, "seeds", ())
        numbers = [f"{len(seeds)} seeds"] * bool(seeds) + [f"{len(folds)} folds"] * bool(folds)
        return ", ".join([name, *numbers])

    def main(self) -> None:
        """The body of an entry point: parse, then execute;
        what a user can mend ends it with its message alone."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        quiet_libraries()
        config = parse(self.config, stage=self.name, arguments=command_arguments())
        end_in_order()
        settle_work_root()
        try:
            open_store()
            outside.check_places()
            run_id = execute(self, config)
        except INTERRUPTS:
            said = f"\n{self.name}: interrupted. The same command goes on from there"
            print(said, file=sys.stderr, flush=True)
            sys.exit(exit_code())
        except Exception as error:
            if not (message := outside.message(error)):
                sys.exit(_traceback_of(error))
            sys.exit(f"\n{self.name}: {message}")
        if is_process_zero():
            print(f"{self.name} finished: run {run_id}", flush=True)


def execute(
    stage: Stage[_Config],
    config: _Config,
    *,
    name: str = "",
    reuse: bool = False,
    watch: Watch | None = None,
    shared: SharedObjects | None = None,
) -> str:
    """Runs a stage and returns its run's id.

    Without a `name` the run is called after the stage and its settings. Within an active run it becomes a
    nested one. With `reuse`, a finished run of the same settings, code, inputs and data is taken instead. An
    interrupted run of that kind is continued. With `config.seeds`, or data over folds, there is a nested run
    for each of them, and the stage says what their parent makes of them. `watch` is told of the validations
    of this run's own training, not of nested runs, and may end it by StopTraining.
    Stages that get the same `shared` read their data once.
    """
    shared = shared or SharedObjects()
    check_ranges(config)
    enter_group(several=getattr(getattr(config, "trainer", None), "several_processes", False))
    sampled = samples_system(config)
    stage.check(config)
    wait_for_answer(f"the begin of {stage.name}")  # within another stage: `main` has asked its store already
    config = resolve_upstream(config)
    folds = folds_of(config)
    name = name or stage.describe(config, folds)
    stage = _over_seeds_or_folds(stage, config, folds, shared)
    stage.fetch(config)
    reads = stage.reads(config)
    wait_for_answer(f"the begin of {name}")  # reading may take long
    digest = uuid4().hex if reads is None else fingerprint(stage.name, config, reads)
    if reuse and (finished := runs.find_finished(stage.name, digest)):
        print(f"{name}: already finished in run {finished.info.run_id}, taken from there", flush=True)
        return str(finished.info.run_id)
    with work_folder(stage.name, digest) as folder:
        seed_everything(getattr(config, "seed", 0))
        if is_process_zero():
            with _active_run(stage, digest, name, folder, sampled=sampled) as run:
                run = dataclasses.replace(run, watch=watch, shared=shared)
                _work(stage, config, run)
            shutil.rmtree(folder)
        else:
            run = StageRun("of-process-zero", name, folder, watch, shared)
            stage.run(config, run)
            _wait_for_all_processes()
    return run.run_id


def _over_seeds_or_folds(
    stage: Stage[_Config], config: Any, folds: Sequence[int], shared: SharedObjects
) -> Stage[_Config]:
    """The stage that runs this one with every seed, else that which does with every fold, else this one.
    Raises UserError where it does not go over folds."""
    if seeds := getattr(config, "seeds", ()):
        if len(set(seeds)) != len(seeds):
            raise UserError(f"seeds are {', '.join(map(str, seeds))}: each should stand there once")
        return _over(SEEDS, seeds, stage, stage.study, shared)
    if not folds:
        return stage
    if stage.folds is None:
        raise UserError(
            f"{stage.name} takes the data of one fold: name one of the runs below {config.prepare_run}"
        )
    return _over(FOLDS, folds, stage, stage.folds, shared)


def _over(
    several: Several, numbers: Sequence[int], stage: Stage[_Config], study: OverSeveral, shared: SharedObjects
) -> Stage[_Config]:
    """The stage that runs this one with each number."""

    def parent(config: Any, run: StageRun) -> Result:
        configs = {number: study.config_of(config, number) for number in numbers}
        children = {
            number: execute(
                stage, one, name=f"{stage.name} {several.what} {number}", reuse=True, shared=shared
            )
            for number, one in configs.items()
        }
        if not is_process_zero():
            return Result()
        result = study.result(config, children, run)
        tags = {several.tag(number): run_id for number, run_id in children.items()}
        return dataclasses.replace(result, tags={**result.tags, **tags}, parts=children.values())

    return dataclasses.replace(stage, name=stage.name + several.suffix, run=parent)


def _work(stage: Stage[_Config], config: _Config, run: StageRun) -> None:
    """The stage's work and what it leaves, in the active run."""
    try:
        _log_configuration(config)
        result = stage.run(config, run)
        _wait_for_all_processes()  # before the end, which may wait for the server longer than they would
        outcome.end(run, "FINISHED", partial(outcome.log_all, result))
    except StopTraining:
        outcome.end(run, "KILLED", _forget_fingerprint)
        shutil.rmtree(run.folder)
        raise
    except INTERRUPTS as interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from the first on
        outlive_the_others()
        last_words(interrupt, partial(outcome.end, run, "KILLED", waits=False))
        raise
    except BaseException as error:
        outlive_the_others()
        _end_as_failed(run, error)
        raise
    if result.summary:
        print(f"\n{result.summary}\n", flush=True)


def _forget_fingerprint() -> None:
    """Else the run would be continued as an interrupted one."""
    active = mlflow.active_run()
    if active and FINGERPRINT in mlflow.get_run(active.info.run_id).data.tags:
        mlflow.delete_tag(FINGERPRINT)


def _end_as_failed(run: StageRun, error: BaseException) -> None:
    """With the reason in error.txt. What goes wrong here is said, and does not stand in for that reason."""
    text = _traceback_of(error)
    if not answers():
        print(text, flush=True)
    try:
        log = partial(mlflow.MlflowClient().log_text, run.run_id, text, "error.txt")
        outcome.end(run, "FAILED", log)
    except LeaseLost:
        pass  # whoever has the run now ends it
    except Exception as further:
        logging.getLogger(__name__).warning(
            "%s: could not note its failure: %s", run.name, without_passwords(str(further))
        )


def _traceback_of(error: BaseException) -> str:
    """MLflow's errors name the address that they asked, with its password."""
    return without_passwords("".join(traceback.format_exception(error)))


def _wait_for_all_processes() -> None:
    """The others may still read what process 0 is about to delete."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def _active_run(
    stage: Stage[Any], digest: str, name: str, folder: Path, *, sampled: bool
) -> Iterator[StageRun]:
    """A run that is active meanwhile, and this process's: an interrupted one of the same work, or else the
    one that `mlflow run` made, or a new one (nested within an active one).
    Raises Busy where another process has it."""
    parent = mlflow.active_run()
    experiment, interrupted = runs.experiment_id(), runs.find_interrupted(stage.name, digest)
    made = os.environ.pop(RUN_ID, None) if parent is None else None  # a nested run would join that one too
    tags = {STAGE: stage.name, FINGERPRINT: digest, COMPLETE: NOT_YET}
    if stage.score:
        tags[SCORE] = stage.score
    run_id, record = made, folder / "lease"
    if interrupted:
        run_id = str(interrupted.info.run_id)
        lease = _claim_unfinished(run_id, record)
        print(f"{name}: continues run {run_id}", flush=True)
        if made and made != run_id:
            runs.hand_over(made, run_id, name)
    else:
        shutil.rmtree(folder)  # left by a run that was deleted, or killed after it had finished
        folder.mkdir()
        tags[leases.OWNER] = leases.new_owner(record)
    nested = parent is not None
    with mlflow.start_run(
        run_id,
        experiment_id=experiment,
        nested=nested,
        tags=tags,
        log_system_metrics=sampled or None,  # None: as MLflow's own variable says
    ) as active:
        if not interrupted:
            lease = Lease(active.info.run_id, tags[leases.OWNER], record)
            runs.give_way(active, stage.name, digest)
        os.environ["MLFLOW_EXPERIMENT_ID"] = experiment  # for the processes that a strategy starts
        runs.name_run(active.info.run_id, name, parent=parent.info.run_id if parent else None)
        run = StageRun(active.info.run_id, name, folder)
        with leases.held(lease, also=run.send_metrics):
            yield run


def _claim_unfinished(run_id: str, record: Path) -> Lease:
    """The lease of an interrupted run.
    Raises Busy where another process has it, or has finished it meanwhile."""
    lease = leases.claim(run_id, record)
    if not runs.is_interrupted(mlflow.get_run(run_id)):
        lease.release()
        raise leases.Busy(f"another process has just finished this, in run {run_id}", lambda: None)
    return lease


def _log_configuration(config: Any) -> None:
    """All settings as config.yaml and as those parameters that the run does not have yet;
    upstream runs as tags.

    `mlflow run` has logged what its command line said, such as `latest`:
    the tags say which runs or files that was.
    """
    taken = {field.name: getattr(config, field.name) for field in upstream_fields(config)}
    mlflow.set_tags({f"{UPSTREAM}{name}": value for name, value in taken.items()})
    mlflow.set_tags(
        {tag: label for name, value in taken.items() for tag, label in file_tags(name, value).items()}
    )
    active = mlflow.active_run()
    try:
        mlflow.log_text(yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False), "config.yaml")
    except Exception as error:  # of the system, MLflow, or a library for S3, which may be missing
        place = active.info.artifact_uri if active else "their store"
        reason = refusal(error) or str(error)
        raise UserError(f"no artifact can be written to {place} from here: {reason}") from error
    known = mlflow.get_run(active.info.run_id).data.params if active else {}
    mlflow.log_params({key: value for key, value in settings(config).items() if key not in known})


def plain(values: Mapping[str, Any]) -> Any:
    """Tuples as lists, as YAML has them."""
    return json.loads(json.dumps(values))


def quiet_libraries() -> None:
    """Lightning and MLflow talk of themselves at the level of what a stage has to say;
    a router has a line per request."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("lightning.pytorch", "lightning.fabric", "mlflow", "alembic", "httpx", "adaptf.router"):
        logging.getLogger(name).setLevel(logging.WARNING)
