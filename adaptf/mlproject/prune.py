"""Says what takes space and nothing needs any more, and takes it away where asked to.
It makes no run of its own.

Only what this package has made is ever taken: shards of waveform caches, work folders and their locks, rests
of downloads, logged models of deleted runs. What somebody holds the lock of stays, and so does all of which
it can't be told whether a run needs it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import filelock
import mlflow
from mlflow.entities import LifecycleStage, Run, ViewType

from adaptf.data.cache.shards import CacheFormat, shards_of
from adaptf.data.parquet import read_table
from adaptf.data.sets.download import leftovers
from adaptf.errors import UserError
from adaptf.files import remove
from adaptf.mlproject.prepare import PREPARE
from adaptf.pipeline.artifacts import CLIPS, DATA, DATASET, EVALUATE_RUN, QUANTIZE_RUN
from adaptf.pipeline.command_line import command_arguments
from adaptf.pipeline.printed import print_told
from adaptf.tracking import production, runs, stage_run
from adaptf.tracking.logged_models import kept_models
from adaptf.tracking.tags import FINGERPRINT, STAGE, UPSTREAM
from adaptf.tracking.work_folder import work_folder_name, work_root

_ALL = 2**31 - 1
"""More runs than there are: MLflow would give 100,000."""
_WORK = f"*-{'[0-9a-f]' * 16}"
"""Names of work folders."""


@dataclass(frozen=True)
class PruneConfig:
    """Says what of caches, work folders and downloads no run and no version of this store needs."""

    yes: bool = False
    """Takes it away."""


class Waste(NamedTuple):
    """What may go."""

    what: str
    path: Path
    size: int
    """Bytes."""
    take: Callable[[], None]


class Prepared(NamedTuple):
    """What a run of `prepare` found."""

    audio_root: Path
    cache: Path
    """Folder of its format."""
    format: CacheFormat
    keys: frozenset[str]
    """Of its clips in the cache."""


def prune(config: PruneConfig) -> str:
    """What was taken away, or would be, as text. What stays although it may be of no use is printed."""
    with ExitStack() as locks:
        found = all_runs()
        data = prepared_data(found)
        waste = [
            *shards(data, locks),
            *work_folders(locks),
            *left_locks(),
            *left_models(found),
            *downloads({one.audio_root for one in data.values()}, locks),
        ]
        if config.yes:
            for one in waste:
                one.take()
    return as_text(waste, taken=config.yes)


def all_runs() -> list[Run]:
    """Of all experiments of the store, deleted ones too."""
    experiments = [one.experiment_id for one in mlflow.search_experiments(view_type=ViewType.ALL)]
    found = mlflow.search_runs(
        experiments, run_view_type=ViewType.ALL, output_format="list", max_results=_ALL
    )
    return [run for run in found if STAGE in run.data.tags]


def is_there(run: Run) -> bool:
    """Whether nobody has deleted it."""
    return bool(run.info.lifecycle_stage == LifecycleStage.ACTIVE)


def is_prepare(run: Run) -> bool:
    return bool(run.data.tags[STAGE] == PREPARE.name)


def prepared_data(found: Iterable[Run]) -> dict[str, Prepared]:
    """By the ids of the finished runs of `prepare`, deleted ones too, those whose artifacts can be read."""
    data = {}
    with TemporaryDirectory() as folder:
        for run in found:
            if is_prepare(run) and run.info.status == "FINISHED":
                with suppress(UserError, OSError, ValueError, LookupError, TypeError):
                    data[run.info.run_id] = _read(stage_run.download(run.info.run_id, DATA, Path(folder)))
    return data


def _read(folder: Path) -> Prepared:
    stored = json.loads((folder / DATASET).read_text())
    format, keys = CacheFormat(**stored["format"]), read_table(folder / CLIPS)["key"]
    return Prepared(
        Path(stored["audio_root"]), Path(stored["cache"]) / format.folder_name, format, frozenset(keys)
    )


def shards(data: Mapping[str, Prepared], locks: ExitStack) -> Iterator[Waste]:
    """Those of which no clip belongs to data that are needed."""
    formats = {one.cache: one.format for one in data.values() if one.cache.is_dir()}
    caches = [folder for folder in formats if _hold(folder / "lock", locks)]
    found = all_runs()  # after the locks: a `prepare` that begins now waits for them
    running = [
        run.info.run_id for run in found if is_prepare(run) and is_there(run) and runs.is_interrupted(run)
    ]
    needed = prepares_needed(found)
    if unknown := [*running, *(needed - data.keys())]:
        print(
            f"Waveform caches stay: what prepare run {', '.join(unknown)} needs of them can't be told, "
            f"because it has not ended or its artifacts can't be read. Delete it in MLflow if it is of no "
            "use",
            flush=True,
        )
        return
    keys = frozenset[str]().union(*(data[run_id].keys for run_id in needed))
    for folder in caches:
        for shard in shards_of(folder, formats[folder]):
            if shard.samples_path.exists() and keys.isdisjoint(shard.read_manifest()["key"]):
                yield Waste(
                    "shards of waveform caches", shard.samples_path, _size(shard.samples_path), shard.forget
                )


def prepares_needed(found: Iterable[Run]) -> set[str]:
    """The finished runs of `prepare` that nobody has deleted,
    or to which a run or a version leads that is there."""
    by_id = {run.info.run_id: run for run in found}
    left = [run_id for run_id, run in by_id.items() if is_there(run)] + [*_runs_of_versions()]
    needed: dict[str, Run] = {}
    while left:
        run = by_id.get(left.pop())
        if run and run.info.run_id not in needed:
            needed[run.info.run_id] = run
            for name, value in run.data.tags.items():
                left += value.split(",") if name.startswith(UPSTREAM) else []
    return {run_id for run_id, run in needed.items() if is_prepare(run) and run.info.status == "FINISHED"}


def _runs_of_versions() -> Iterator[str]:
    for model in production.models():
        for version in production.versions_of(model.name):
            yield str(version.run_id)
            yield from (str(version.tags.get(tag)) for tag in (QUANTIZE_RUN, EVALUATE_RUN))


def work_folders(locks: ExitStack) -> Iterator[Waste]:
    """Those whose runs are finished or deleted."""
    there = [path for path in work_root().glob(_WORK) if path.is_dir()]
    free = [folder for folder in there if _hold(folder.with_suffix(".lock"), locks)]
    found = all_runs()  # after the locks: nobody goes on in these folders now
    for folder in free:
        of = [run for run in found if _work_name(run) == folder.name]
        unfinished = [run.info.run_id for run in of if is_there(run) and runs.is_interrupted(run)]
        if of and not unfinished:
            yield Waste("work folders", folder, _size(folder), partial(_remove_work, folder))
        else:
            why = (
                f"run {unfinished[0]} can go on from it" if unfinished else "no run of this store has made it"
            )
            print(f"{folder} stays ({_size(folder) / 1e9:.2f} GB): {why}", flush=True)


def _remove_work(folder: Path) -> None:
    """With its lock, which is held: whoever waits for it takes a new one."""
    remove(folder)
    folder.with_suffix(".lock").unlink()


def left_locks() -> Iterator[Waste]:
    """Locks of work folders that are gone."""
    for lock in work_root().glob(f"{_WORK}.lock"):
        if not lock.with_suffix("").exists():
            yield Waste("locks of work folders", lock, 0, partial(_remove_lock, lock))


def left_models(found: Iterable[Run]) -> Iterator[Waste]:
    """Logged models of runs that somebody has deleted, which MLflow leaves on its Models page."""
    deleted = {run.info.run_id: run.info.experiment_id for run in found if not is_there(run)}
    for model in kept_models(sorted({*deleted.values()})) if deleted else ():
        if model.source_run_id in deleted:
            take = partial(mlflow.MlflowClient().delete_logged_model, model.model_id)
            yield Waste("logged models of deleted runs", Path(model.name), 0, take)


def _work_name(run: Run) -> str:
    return work_folder_name(run.data.tags[STAGE], run.data.tags.get(FINGERPRINT, ""))


def _remove_lock(lock: Path) -> None:
    """Unless its folder is there, or somebody holds it.
    Whoever waits for a lock that is removed takes a new one."""
    with suppress(filelock.Timeout), filelock.FileLock(lock).acquire(blocking=False):
        if not lock.with_suffix("").exists():
            lock.unlink()


def downloads(roots: Iterable[Path], locks: ExitStack) -> Iterator[Waste]:
    """What is left of archives that are unpacked."""
    for folder in (root / "downloads" for root in roots):
        if (folder / "lock").is_file() and _hold(folder / "lock", locks):
            for path in leftovers(folder):
                yield Waste("rests of downloads", path, _size(path), partial(remove, path))


def _hold(lock: Path, locks: ExitStack) -> bool:
    """Whether nobody else holds it; it is held until all is done."""
    try:
        locks.enter_context(filelock.FileLock(lock).acquire(blocking=False))
    except filelock.Timeout:
        print(f"{lock.with_suffix('')} stays: another process works there", flush=True)
        return False
    return True


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def as_text(waste: Iterable[Waste], *, taken: bool) -> str:
    """Each file and folder but locks, and what of each kind there is."""
    by_kind: dict[str, list[Waste]] = {}
    for one in waste:
        by_kind.setdefault(one.what, []).append(one)
    lines = [
        f"  {one.path}  {one.size / 1e9:.2f} GB" for kind in by_kind.values() for one in kind if one.size
    ]
    lines += [
        f"{len(kind)} {what}: {sum(one.size for one in kind) / 1e9:.2f} GB" for what, kind in by_kind.items()
    ]
    end = "Taken away" if taken else "Nothing is taken away without -P yes=true"
    return "\n".join([*lines, end if lines else "There is nothing that could go"])


if __name__ == "__main__":
    print_told(prune, PruneConfig, name="prune", arguments=command_arguments())
