"""Files a second by the programs of docs/batch.md beside the stage `predict`:
whole commands on the same two cores.

Spark has `local-cluster[2,1,1024]`, Ray Data two actors. What a command takes to start (Java, imports,
loading) is the same for ten files and ten million, so that the rate is that between two sizes. Needs
pyspark, ray and Java. `--clips` is a folder with clips.csv (filename, device) and its files in audio/; by
default noise is written.

python benchmarks/batch.py --files 500 3000
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlflow
import pandas as pd
from measure import machine, seconds_of
from routers import DEVICES, logged_router, write_wavs

from adaptf.tracking import production, registry

DOCS = Path(__file__).parents[1] / "docs" / "batch.md"
MASTER = "--master local-cluster[2,1,1024] pyspark-shell"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs=2, default=[500, 3000], help="two sizes of the table")
    parser.add_argument("--clips", type=Path, default=None, help="folder with clips.csv and audio/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = (write_table(folder / str(files), args.clips, files) for files in args.files)
        with logged_router(folder) as uri:
            production.promote(registry.ROUTER_NAME, uri.rpartition("/")[2])
            taken = [(what, command(few), command(many)) for what, command in commands(uri).items()]
        print(f"{machine()}, load {os.getloadavg()[0]:.1f}\n")
        print(f"| | {args.files[0]} files, s | {args.files[1]} files, s | files/s between them |")
        print("|---|---:|---:|---:|")
        for what, short, long in taken:
            rate = (args.files[1] - args.files[0]) / (long - short)
            print(f"| {what} | {short:.1f} | {long:.1f} | {rate:.0f} |", flush=True)


def commands(uri: str) -> dict[str, Callable[[Path], float]]:
    """By what it is, what runs in a folder with clips.csv and says how many seconds it took."""
    spark, ray = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    predict = ["-m", "adaptf.mlproject.predict", "--files", "clips.csv", "--model_uri", uri]
    return {
        "`predict`, two threads": partial(run, predict, OMP_NUM_THREADS="2"),
        "Spark, two processes": partial(run_program, spark),
        "Ray Data, two actors": partial(run_program, ray),
    }


def run_program(program: str, folder: Path) -> float:
    (folder / "answers.py").write_text(program)
    shutil.rmtree(folder / "answers", ignore_errors=True)
    return run(["answers.py"], folder)


def run(arguments: list[str], folder: Path, **environment: str) -> float:
    """Seconds of a Python command. Raises RuntimeError with its output where it fails."""
    everywhere = {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": MASTER,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }

    def call() -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | everywhere | environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-5000:])

    seconds = seconds_of(call)
    print(f"{arguments[-1]}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def write_table(folder: Path, clips: Path | None, files: int) -> Path:
    """A folder with so many files of one second, in clips.csv."""
    folder.mkdir()
    if clips is None:
        names = write_wavs(folder / "audio", files)
        table = pd.DataFrame({"filename": names, "device": [DEVICES[row % 7] for row in range(files)]})
        table["filename"] = "audio/" + table["filename"]
    else:
        table = pd.read_csv(clips / "clips.csv", usecols=["filename", "device"]).head(files)
        (folder / "audio").mkdir()
        for name in table["filename"]:
            shutil.copyfile(clips / name, folder / name)
    table.to_csv(folder / "clips.csv", index=False)
    return folder


if __name__ == "__main__":
    main()
