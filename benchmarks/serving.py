"""A served router under load: `serve` over HTTP, eight clients, against the same request in one process.

Eight microphones that each send a clip a second are what the limit on the median (3 times the in-process
time) is meant for. Eight clients that send the next request once the last is answered are shown beside: then
eight requests are always under way, and on two cores each waits for three others on its core, so that its
median is at least four times the time of one alone, however little HTTP costs.
The clients run on the same cores as the server, so they do as little as can be: each sends bytes that were
prepared before, on one connection, and reads the answer's length and no more of it.

python benchmarks/serving.py --seconds 60
"""

import base64
import json
import os
import re
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
    server_seconds: float = 0.0
    """Processor time of the server."""
    client_seconds: float = 0.0
    """Of all the clients."""


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
                as_json = [json_request(row) for row in rows]
                as_it_is = [raw_request(row) for row in rows]
                measure(address, process, as_json, seconds=5.0, every_seconds=0.0)  # warm
                print(
                    "| | requests/s | errors | median, ms | p99, ms | median / in process | ms of a core a "
                    "request: server, clients | server, MB: start, middle, end |"
                )
                print("|---|---|---|---|---|---|---|---|")
                for what, sent, every_seconds in (
                    ("a clip a second each", as_json, 1.0),
                    (CLOSED_LOOP, as_json, 0.0),
                    (f"{CLOSED_LOOP}, audio as it is", as_it_is, 0.0),
                ):
                    measured = measure(
                        address, process, sent, seconds=args.seconds, every_seconds=every_seconds
                    )
                    print(row_of(what, measured, args.seconds, alone), flush=True)
                    pairs += pairs_of(what, measured, args.seconds, alone)
    print()
    keep(show(pairs), args.keep)


def json_request(row: dict[str, str]) -> bytes:
    return http_request("/invocations", "application/json", json.dumps({"dataframe_records": [row]}).encode())


def raw_request(row: dict[str, str]) -> bytes:
    """The same row as a file with its device in the query."""
    audio = base64.b64decode(row["audio"])
    return http_request(f"/invocations?device={row['device']}", "application/octet-stream", audio)


def http_request(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


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


def measure(address: str, group: int, sent: list[bytes], *, seconds: float, every_seconds: float) -> Measured:
    """A client for each of the requests sent. `every_seconds`: between two of a client, the clients
    staggered; 0: the next follows the answer."""
    measured, start = Measured(), time.monotonic()
    threads = [
        threading.Thread(
            target=client,
            args=(address, request, measured),
            kwargs={
                "start": start + every_seconds * place / len(sent),
                "end": start + seconds,
                "every_seconds": every_seconds,
            },
        )
        for place, request in enumerate(sent)
    ]
    server_before, clients_before = processor_seconds(group), time.process_time()
    for thread in threads:
        thread.start()
    for share in (0.1, 0.5, 0.95):
        sleep_until(start + share * seconds)
        measured.megabytes.append(megabytes_of(group))
    for thread in threads:
        thread.join()
    measured.server_seconds = processor_seconds(group) - server_before
    measured.client_seconds = time.process_time() - clients_before
    return measured


def client(
    address: str,
    request: bytes,
    measured: Measured,
    *,
    start: float,
    end: float,
    every_seconds: float,
) -> None:
    """Sends until the end on one connection."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        due = start
        while True:
            sleep_until(due)
            if (sent := time.monotonic()) >= end:
                return
            connection.sendall(request)
            head = read_answer(connection)
            if head.startswith(b"HTTP/1.1 200 "):
                measured.seconds.append(time.monotonic() - sent)
            else:
                measured.errors.append(head.decode())
            due = due + every_seconds if every_seconds else time.monotonic()


def read_answer(connection: socket.socket) -> bytes:
    """Its head; the body is read too."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
    left = int(length) - len(body)
    while left:
        left -= len(received(connection))
    return head


def received(connection: socket.socket) -> bytes:
    """Raises ConnectionError where the server has hung up."""
    piece = connection.recv(2**16)
    if not piece:
        raise ConnectionError("the server has hung up")
    return piece


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    requests_sent = max(1, len(measured.seconds) + len(measured.errors))
    server, clients = (
        1000 * taken / requests_sent for taken in (measured.server_seconds, measured.client_seconds)
    )
    line = (
        f"| {what} | {len(measured.seconds) / seconds:.1f} | {len(measured.errors)} | {1000 * median:.1f} | "
        f"{1000 * p99:.1f} | {median / alone:.1f}x | {server:.2f}, {clients:.2f} | {memory} |"
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
