"""Memory and speed of `predict` over the number of files:
a process of its own each, and the highest resident memory of it or of one of those that it starts.

python benchmarks/predict_memory.py --files 1500 6000
"""

import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import mlflow
import pandas as pd
from kept import Pair, command_line, keep, show
from measure import machine
from routers import DEVICES, logged_router, write_wavs

from adaptf.mlproject.predict import PredictConfig, files_digest, predict
from adaptf.tracking.stage_run import StageRun

WAVS = 200
"""Different ones; the table names them again and again."""
EVALUATION_FILES, MOST_MINUTES = 178_930, 25
"""Of the challenge; what they may take on two cores."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--files", type=int, nargs="+", default=[1500, 6000], help="rows of the table, one process each"
    )
    args = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write_wavs(folder / "clips", WAVS)
        with logged_router(folder) as uri:
            print(f"{machine()}\n\n| files | highest memory, MB | files/s |\n|---|---|---|")
            for files in args.files:
                table = pd.DataFrame({"filename": names * (-(-files // WAVS))}).head(files)
                table["device"] = [DEVICES[row % len(DEVICES)] for row in range(files)]
                path = folder / "clips" / f"{files}.csv"
                table.to_csv(path, index=False)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    megabytes, seconds = pool.submit(
                        run_stage, path, uri, mlflow.get_tracking_uri(), folder
                    ).result()
                print(f"| {files} | {megabytes:.0f} | {files / seconds:.0f} |", flush=True)
                pairs.append(pair_of(files, seconds))
    print()
    keep(show(pairs), args.keep)


def pair_of(files: int, seconds: float) -> Pair:
    return Pair(
        f"the stage `predict`, loading included, on {files:,} files",
        None,
        1000 * seconds / files,
        per="file",
        most_ms=60_000 * MOST_MINUTES / EVALUATION_FILES,
    )


def run_stage(path: Path, uri: str, tracking_uri: str, folder: Path) -> tuple[float, float]:
    """Checks and predicts as the stage does; highest memory of a process in MB, and the seconds taken."""
    mlflow.set_tracking_uri(tracking_uri)
    config, work = PredictConfig(files=str(path), model_uri=uri), folder / f"work-{path.stem}"
    work.mkdir()
    start = time.perf_counter()
    files_digest(config)
    predict(config, StageRun(run_id="", name="predict", folder=work))
    seconds = time.perf_counter() - start
    ours, of_children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(ours.ru_maxrss, of_children.ru_maxrss) / 1000, seconds


if __name__ == "__main__":
    main()
