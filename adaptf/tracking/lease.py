"""Who works for a run: a lease in the store, which its holder renews and others take over when it is stale.

Clocks of machines differ, and an MLflow server tells no time: a lease is stale where its heartbeat has not
*changed* in so many looks at it. Nor can MLflow compare and set:
whoever wants a lease writes a name, lets others do so, and reads whose was last.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _active_run_stack

from adaptf.errors import UserError
from adaptf.files import write_atomically
from adaptf.tracking.server import answers

OWNER, HEARTBEAT = "adaptf.lease", "adaptf.heartbeat"
"""Tags: the process that works for a run, empty once it has ended;
when that last said so, by its own clock."""
BEAT_SECONDS, LOOK_SECONDS, LOOKS, SETTLE_SECONDS = 15.0, 3.0, 30, 3.0
"""How often a holder renews; how often others look and how many looks make it stale;
how long others may write a name."""

_LAST_BEAT_SECONDS = 1.0
"""So long a run's end waits for a heartbeat under way, which hangs where the server does."""


class Busy(UserError):
    """Another process does this very work at the moment; `wait` returns when it may have ended."""

    def __init__(self, message: str, wait: Callable[[], None]) -> None:
        super().__init__(message)
        self.wait = wait


class LeaseLost(UserError):
    """A run was taken over by another process, or deleted: this one may neither write into it nor end it."""


class Lease:
    """A process's right to write into a run, which the run has once `owner` is its tag.

    `record`, a file, says who has had it from the same work folder. One process at a time works there, so
    nobody waits for those.
    """

    def __init__(self, run_id: str, owner: str, record: Path) -> None:
        self.run_id, self.owner, self.lost = run_id, owner, ""
        self._record, self._client = record, mlflow.MlflowClient()

    def check(self) -> None:
        """Raises LeaseLost where the store says that another process has the run, or that it was deleted."""
        holder = _holder(self.run_id)
        if holder is None:
            self.lost = (
                f"run {self.run_id} was deleted while this process worked for it, which ends. Where the run "
                "is restored, the same command goes on in it, else it begins anew"
            )
        elif holder != self.owner:
            self.lost = (
                f"run {self.run_id} was taken over by {_who(holder)}, having heard nothing of this process "
                "for too long: it ends, and leaves the run to that one"
            )
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """The same as far as it is known, without a request."""
        if self.lost:
            raise LeaseLost(self.lost)

    def beat(self) -> None:
        """Says that the holder lives. Raises LeaseLost."""
        self.check()
        self._client.set_tag(self.run_id, HEARTBEAT, _now())

    def release(self) -> None:
        """Lets others have the run at once."""
        self._client.set_tag(self.run_id, OWNER, "")
        self._record.unlink(missing_ok=True)


_held: list[Lease] = []
"""By this process, the innermost last, as MLflow's active runs."""


def check() -> None:
    """Raises LeaseLost where this process has lost the run that it works for, or one around that."""
    raise_if_lost()
    if _held:
        _held[-1].check()


def of(run_id: str) -> Lease:
    """That of a run which this process works for."""
    return next(lease for lease in _held if lease.run_id == run_id)


def raise_if_lost() -> None:
    """The same as far as it is known, without a request."""
    for lease in _held:
        lease.raise_if_lost()


@contextmanager
def held(lease: Lease, *, also: Callable[[], None]) -> Iterator[None]:
    """A thread renews the lease and then does `also`, which writes into the run too,
    whenever the server answers.

    At the end the run is not MLflow's active one any more, also where nobody has ended it.
    """
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(lease, also, over), daemon=True)
    _held.append(lease)
    try:
        thread.start()
        yield
    finally:
        _held.remove(lease)
        over.set()
        if thread.is_alive():
            thread.join(_LAST_BEAT_SECONDS)
        _leave(lease.run_id)


def _renew(lease: Lease, also: Callable[[], None], over: threading.Event) -> None:
    while not lease.lost:
        with suppress(Exception):  # the server is away, or the lease lost: whoever writes next is told
            if answers():
                lease.beat()
                also()
        if over.wait(BEAT_SECONDS):
            return


def claim(run_id: str, record: Path) -> Lease:
    """That of a run that was begun.
    Raises Busy where its holder gives a sign of life, or another process is quicker."""
    holder = _tags(run_id).get(OWNER, "")
    if holder not in ("", *_known(record)):
        print(f"run {run_id} is held by {_who(holder)}: waiting for a sign of life", flush=True)
        if is_alive(run_id):
            raise busy(run_id)
    lease = Lease(run_id, new_owner(record), record)
    mlflow.MlflowClient().set_tag(run_id, OWNER, lease.owner)
    time.sleep(SETTLE_SECONDS)
    if _tags(run_id).get(OWNER) != lease.owner:
        raise busy(run_id)
    return lease


def new_owner(record: Path) -> str:
    """A name for this process as a holder, unique and for people. The record has it before the store can."""
    owner = f"{uuid4().hex} process {os.getpid()} on {socket.gethostname()} since {_now()}"
    write_atomically(record, "\n".join([*_known(record), owner]).encode())
    return owner


def _known(record: Path) -> list[str]:
    """The holders from its work folder, of which none works any more."""
    return record.read_text().splitlines() if record.is_file() else []


def is_alive(run_id: str) -> bool:
    """Whether the run's holder gives a sign of life, which takes a minute and a half to deny."""
    first = _tags(run_id)
    for _ in range(LOOKS):
        time.sleep(LOOK_SECONDS)
        now = _tags(run_id)
        if not now.get(OWNER):
            return False
        if now != first:
            return True
    return False


def busy(run_id: str) -> Busy:
    """What to raise where another process has the run."""
    holder = _who(_tags(run_id).get(OWNER, ""))
    return Busy(
        f"another process is running this with the same settings and data: {holder} (run {run_id})",
        lambda: _wait_while_alive(run_id),
    )


def _wait_while_alive(run_id: str) -> None:
    while is_alive(run_id):
        pass


def _leave(run_id: str) -> None:
    """Else MLflow ends an active run as finished when the process ends.
    No public function of it forgets one."""
    stack = _active_run_stack.get()
    stack[:] = [run for run in stack if run.info.run_id != run_id]


def _tags(run_id: str) -> dict[str, str]:
    """Owner and heartbeat; nothing of a run that was deleted."""
    run = mlflow.get_run(run_id)
    found = {} if run.info.lifecycle_stage == LifecycleStage.DELETED else run.data.tags
    return {name: found[name] for name in (OWNER, HEARTBEAT) if name in found}


def _holder(run_id: str) -> str | None:
    """Of a run; '' where it has none. None of a run that was deleted."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    deleted = run.info.lifecycle_stage == LifecycleStage.DELETED
    return None if deleted else run.data.tags.get(OWNER, "")


def _who(owner: str) -> str:
    return owner.partition(" ")[2] or "a process that has ended since"


def _now() -> str:
    return datetime.now(UTC).isoformat()
