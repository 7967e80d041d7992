"""A served router under load: `serve` over HTTP, eight clients, against the same request in one process.

Eight microphones that each send a clip a second are what the limit on the median (3 times the in-process
time) is meant for. Eight clients that send the next request once the last is answered are shown beside: then
eight requests are always under way, and on two cores each waits for three others on its core, so that its
median is at least four times the time of one alone, however little HTTP costs.
The clients run on the same cores as the server.

python benchmarks/serving.py --seconds 60
"""

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import requests
from kept import Pair, command_line, keep, show
from measure import machine, seconds_of
from routers import DEVICES, logged_router, write_wavs

CLOSED_LOOP = "one after the other"
CLIENTS, WARM_UP, CALLS = 8, 50, 300
READY_SECONDS = 600
LEAST_REQUESTS = 248
"""A second, of clients that send the next one once the last is answered."""


@dataclass
class Measured:
    """What the clients of one kind of load have seen."""

    seconds: list[float] = field(default_factory=list)
    """Of each answer, from sending to the last byte."""
    errors: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    """The server's resident memory at the start, in the middle and at the end."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each kind of load")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where files are written; default: the system's"
    )
    args = parser.parse_args()
    pairs = list[Pair]()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (clip,) = write_wavs(folder / "clips", 1)
        audio = base64.b64encode((folder / "clips" / clip).read_bytes()).decode()
        rows = [{"audio": audio, "device": DEVICES[number % len(DEVICES)]} for number in range(CLIENTS)]
        with logged_router(folder) as uri:
            alone = in_process_seconds(uri, rows)
            print(
                f"{machine()}; {CLIENTS} clients for {args.seconds:g} s, a clip of 1 s at 44.1 kHz a "
                "request\n"
            )
            print(f"In one process a request takes {1000 * alone:.2f} ms (median of {CALLS}).\n")
            with served(uri, folder / "server.log") as (address, process):
                measure(address, process, rows, seconds=5.0, every_seconds=0.0)  # warm
                print(
                    "| | requests/s | errors | median, ms | p99, ms | median / in process | server, MB: "
                    "start, middle, end |"
                )
                print("|---|---|---|---|---|---|---|")
                for what, every_seconds in (("a clip a second each", 1.0), (CLOSED_LOOP, 0.0)):
                    measured = measure(
                        address, process, rows, seconds=args.seconds, every_seconds=every_seconds
                    )
                    print(row_of(what, measured, args.seconds, alone), flush=True)
                    pairs += pairs_of(what, measured, args.seconds, alone)
    print()
    keep(show(pairs), args.keep)


def in_process_seconds(uri: str, rows: list[dict[str, str]]) -> float:
    """Median of one request of one row, without HTTP."""
    router = mlflow.pyfunc.load_model(uri)
    tables = [pd.DataFrame([row]) for row in rows]
    taken = [
        seconds_of(lambda table=table: router.predict(table))
        for table in tables * (-(-(WARM_UP + CALLS) // len(tables)))
    ]
    return statistics.median(taken[WARM_UP:])


@contextmanager
def served(uri: str, log: Path) -> Iterator[tuple[str, int]]:
    """Address and process group of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = [f"--model_uri={uri}", "--live=false", f"--port={port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "adaptf.mlproject.serve", *options],
            stdout=output,
            stderr=output,
            env=os.environ | {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
            start_new_session=True,
        )
    try:
        wait_until_ready(address, process, log)
        yield address, process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Raises RuntimeError with the server's output where it does not come up."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            requests.get(f"{address}/ready", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.2)
    raise RuntimeError(f"the server does not answer:\n{log.read_text()}")


def measure(
    address: str, group: int, rows: list[dict[str, str]], *, seconds: float, every_seconds: float
) -> Measured:
    """`every_seconds`: between two requests of a client, the clients staggered; 0:
    the next follows the answer."""
    measured, start = Measured(), time.monotonic()
    threads = [
        threading.Thread(
            target=client,
            args=(address, {"dataframe_records": [row]}, measured),
            kwargs={
                "start": start + every_seconds * place / len(rows),
                "end": start + seconds,
                "every_seconds": every_seconds,
            },
        )
        for place, row in enumerate(rows)
    ]
    for thread in threads:
        thread.start()
    for share in (0.1, 0.5, 0.95):
        sleep_until(start + share * seconds)
        measured.megabytes.append(megabytes_of(group))
    for thread in threads:
        thread.join()
    return measured


def client(
    address: str,
    body: dict[str, object],
    measured: Measured,
    *,
    start: float,
    end: float,
    every_seconds: float,
) -> None:
    """Sends until the end on one connection."""
    data = json.dumps(body).encode()
    with requests.Session() as session:
        session.headers["Content-Type"] = "application/json"
        due = start
        while True:
            sleep_until(due)
            if (sent := time.monotonic()) >= end:
                return
            try:
                session.post(f"{address}/invocations", data=data, timeout=60).raise_for_status()
                measured.seconds.append(time.monotonic() - sent)
            except requests.RequestException as error:
                measured.errors.append(str(error))
            due = due + every_seconds if every_seconds else time.monotonic()


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def megabytes_of(group: int) -> float:
    """Resident memory of all processes of a group."""
    kilobytes = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == group:
                kilobytes += int(
                    dict(line.split(":", 1) for line in status.read_text().splitlines())["VmRSS"].split()[0]
                )
        except (OSError, KeyError):  # it ended meanwhile
            continue
    return kilobytes / 1000


def row_of(what: str, measured: Measured, seconds: float, alone: float) -> str:
    """A line of the table; the errors' first words follow it."""
    median, p99 = np.percentile(measured.seconds, (50, 99)) if measured.seconds else (np.nan, np.nan)
    memory = ", ".join(f"{megabytes:.0f}" for megabytes in measured.megabytes)
    line = (
        f"| {what} | {len(measured.seconds) / seconds:.1f} | {len(measured.errors)} | {1000 * median:.1f} | "
        f"{1000 * p99:.1f} | {median / alone:.1f}x | {memory} |"
    )
    return "\n".join([line, *measured.errors[:3]])


def pairs_of(what: str, measured: Measured, seconds: float, alone: float) -> Iterator[Pair]:
    """Median, 99th percentile and, where nobody waits in between, the time from one answer to the next."""
    if not measured.seconds:
        return
    median, p99 = 1000 * np.percentile(measured.seconds, (50, 99))
    yield Pair(f"served, {what}: alone in one process, median", 1000 * alone, median, per="request")
    yield Pair(f"served, {what}: 99th percentile", None, p99, per="request")
    if what.startswith(CLOSED_LOOP):
        yield Pair(
            f"served, {what}: from one answer to the next",
            None,
            1000 * seconds / len(measured.seconds),
            per="request",
            most_ms=1000 / LEAST_REQUESTS,
        )


if __name__ == "__main__":
    main()
