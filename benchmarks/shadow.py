"""What a candidate beside production costs those who ask: the same clients of one server, by turns with a
router that has the alias `shadow`, which stands for a candidate of each device, and without.

python benchmarks/shadow.py --rounds 10 --seconds 6
"""

import argparse
import base64
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import requests
from measure import machine
from routers import DEVICES, RATE, TAU_SCENES, logged_router, write_wavs
from serving import CLIENTS, Measured, measure, served

from adaptf.serving import logged_model
from adaptf.serving.bundle import write_bundle
from adaptf.tracking import registry
from adaptf.tracking.candidates import ALIAS

CHECK_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="pairs of each kind of load")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each half of a pair")
    parser.add_argument("--share", type=float, default=0.1, help="shadow_share of the server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (clip,) = write_wavs(folder / "clips", 1)
        audio = base64.b64encode((folder / "clips" / clip).read_bytes()).decode()
        rows = [{"audio": audio, "device": DEVICES[number % len(DEVICES)]} for number in range(CLIENTS)]
        with logged_router(folder) as uri:
            candidate = register_candidate(folder)
            options = (f"--check_seconds={CHECK_SECONDS}", f"--shadow_share={args.share}")
            with served(uri, folder / "server.log", *options) as (address, group):
                measure(address, group, rows, seconds=5.0, every_seconds=0.0)  # warm
                print(f"{machine()}; {CLIENTS} clients, {args.rounds} pairs of {args.seconds:g} s\n")
                print("| | shadow | requests | errors | median, ms | p99, ms | clips shadowed, dropped |")
                print("|---|---|---:|---:|---:|---:|---:|")
                for what, every_seconds in (("a clip a second each", 1.0), ("one after the other", 0.0)):
                    halves: dict[bool, list[Measured]] = {False: [], True: []}
                    clips = dropped = 0
                    for half in range(2 * args.rounds):
                        shadowed = half % 4 in (1, 2)  # off, on, on, off: what drifts meets both alike
                        set_alias(address, candidate if shadowed else "")
                        before = page(address)["dropped"]
                        halves[shadowed].append(
                            measure(address, group, rows, seconds=args.seconds, every_seconds=every_seconds)
                        )
                        told = page(address)
                        clips += sum(device["clips"] for device in told["devices"].values())
                        dropped += told["dropped"] - before
                        if shadowed:
                            set_alias(address, "")  # so that counts begin anew
                    for shadowed, measured in halves.items():
                        print(row_of(what, shadowed, measured, f"{clips}, {dropped}"), flush=True)


def register_candidate(folder: Path) -> str:
    """The version of a router of the same networks under other versions' names."""
    write_bundle(
        folder / "candidate",
        {device: (folder / "int8" / f"{device}.pt2", f"adaptf-{device}/2") for device in DEVICES},
        scenes=TAU_SCENES, mel={}, sample_rate=RATE, clip_samples=RATE, max_seconds=60.0,
    )  # fmt: skip
    with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("benchmark").experiment_id):
        logged = logged_model.log_router(folder / "candidate", registry.ROUTER_NAME)
    return registry.register(logged, registry.ROUTER_NAME, tags={}, description="")


def set_alias(address: str, version: str) -> None:
    """Returns when the server has taken the version up, or, without one, given it up."""
    client = mlflow.MlflowClient()
    if version:
        client.set_registered_model_alias(registry.ROUTER_NAME, ALIAS, version)
    else:
        client.delete_registered_model_alias(registry.ROUTER_NAME, ALIAS)
    while bool(page(address)["devices"]) != bool(version):
        time.sleep(CHECK_SECONDS / 5)


def page(address: str) -> dict[str, dict[str, dict[str, int]]]:
    return requests.get(f"{address}/shadow", timeout=60).json()


def row_of(what: str, shadowed: bool, halves: list[Measured], counts: str) -> str:
    """A line of the table."""
    seconds = [taken for half in halves for taken in half.seconds]
    median, p99 = np.percentile(seconds, (50, 99))
    errors = sum(len(half.errors) for half in halves)
    return (
        f"| {what} | {'yes' if shadowed else 'no'} | {len(seconds)} | {errors} | {1000 * median:.1f} | "
        f"{1000 * p99:.1f} | {counts if shadowed else ''} |"
    )


if __name__ == "__main__":
    main()
