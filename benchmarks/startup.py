"""Start-up of a stage on a table of TAU's size:
from the artifact of `prepare` to the rows of the first batch.

The table is generated with names like TAU's; the audio need not exist.
Importing torch, Lightning and MLflow comes on top.

python benchmarks/startup.py
"""

import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from kept import Pair, command_line, keep, show
from measure import machine, seconds_of

from adaptf.data.cache.shards import CLIPS_PER_SHARD, CacheFormat, Shard
from adaptf.data.loader import clip_loader
from adaptf.data.loading import Loading
from adaptf.data.parquet import write_table
from adaptf.data.shared_objects import SharedObjects
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES
from adaptf.pipeline.artifacts import CLIPS, DATASET, SCENES_KIND
from adaptf.pipeline.dataset import load_prepared

FORMAT = CacheFormat(32000, 32000)
TAU_CLIPS, DEVICES = 230_350, ("a", "b", "c", "s1", "s2")
REPEATS = 5


def main() -> None:
    args = command_line(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_prepared(folder)

        def start() -> None:
            run: Any = SimpleNamespace(
                download=lambda run, path: folder / path,
                log_input=lambda data_set: None,
                shared=SharedObjects(),
            )
            data = load_prepared(run, "run", kind=SCENES_KIND)
            train, _ = data.clips("train"), data.clips("validation")
            next(iter(clip_loader(train, batch_size=256, loading=Loading(), seed=0).sampler))

        taken = [seconds_of(start) for _ in range(REPEATS)]
    first, *others = (1000 * seconds for seconds in taken)
    print(f"{machine()}, median of {REPEATS} but for the first\n")
    rows = (
        Pair(
            f"what `prepare` left of {TAU_CLIPS:,} clips to the first batch's rows", None, first, per="start"
        ),
        Pair("the same again in that process", None, statistics.median(others), per="start"),
    )
    keep(show(rows), args.keep)


def write_prepared(folder: Path) -> None:
    """What `prepare` leaves of such a data set, with samples that are a hole in the file system."""
    table = tau_sized_table()
    cache = folder / "cache" / FORMAT.folder_name
    cache.mkdir(parents=True)
    for place, start in enumerate(range(0, len(table), CLIPS_PER_SHARD)):
        keys, shard = table["key"][start : start + CLIPS_PER_SHARD], Shard(cache, place, FORMAT)
        with open(shard.samples_path, "wb") as file:
            file.truncate(len(keys) * FORMAT.row_bytes)
        shard.write_manifest(
            [(key, "0" * 16, FORMAT.clip_samples, 0.1234, 0.0123, -0.0001, 0.0, "") for key in keys]
        )
    (folder / "data").mkdir()
    write_table(folder / "data" / CLIPS, table)
    names = {"name": "tau", "kind": SCENES_KIND, "classes": TAU_SCENES, "devices": DEVICES, "digest": "x"}
    places = {
        "audio_root": "",
        "cache": str(folder / "cache"),
        "format": asdict(FORMAT),
        "synthesised": False,
    }
    (folder / "data" / DATASET).write_text(json.dumps(names | places))


def tau_sized_table() -> pd.DataFrame:
    """Clip table with keys."""
    generator, number = np.random.default_rng(0), np.arange(TAU_CLIPS)
    table = pd.DataFrame(
        {"scene": np.array(TAU_SCENES)[number % 10], "device": np.array(DEVICES)[number % 5]}
    )
    table["location"] = [f"barcelona-{1000 + place % 500}" for place in number]
    table["city"] = "barcelona"
    parts = zip(table["scene"], table["location"], number, table["device"], strict=True)
    table["filename"] = [
        f"audio/{scene}-{place}-{40000 + n}-{n % 10}-{device}.wav" for scene, place, n, device in parts
    ]
    table["split"] = np.where(number % 5 == 0, "test", np.where(number % 7 == 0, "validation", "train"))
    table["key"] = [generator.bytes(16).hex() for _ in number]
    return table


if __name__ == "__main__":
    main()
