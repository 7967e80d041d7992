"""What candidates beside production cost those who ask: clients of one router in this process, by turns with
candidates for all devices and without. Networks are TF-SepNet-64 as torch runs them, which takes longer than
INT8: so candidates compute more than they would in a server.

python benchmarks/shadow.py --pairs 10 --seconds 5
"""

import base64
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from kept import Pair, command_line, keep, show
from measure import machine
from routers import DEVICES, RATE, TAU_SCENES, float_network, write_wavs

from adaptf.audio.logmel import LogMel
from adaptf.compression.runtime import Network
from adaptf.serving.bundle import Bundle, RoutedModel
from adaptf.serving.candidates import Candidates
from adaptf.serving.live import Follower
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings
from adaptf.serving.shadow import Shadow
from adaptf.serving.shadow_status import ShadowMetrics

CLIENTS = 8


class FloatNetwork(Network):
    """A network as it was trained."""

    form = "float"

    def __init__(self, device: str) -> None:
        self.network = float_network(device)

    def __call__(self, logmel: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.network(logmel)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="of each kind of load")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each half of a pair")
    parser.add_argument("--share", type=float, default=0.1, help="as shadow_share of serve")
    parser.add_argument("--core-share", type=float, default=0.1, help="as shadow_core_share of serve")
    args = parser.parse_args()
    networks = {device: FloatNetwork(device) for device in DEVICES}
    router, candidates = router_of(networks, share=args.share, core_share=args.core_share)
    tables = requests_of(CLIENTS)
    for table in tables:
        router.predict(None, table)
    print(
        f"{machine()}; {CLIENTS} clients, {args.pairs} pairs of {args.seconds:g} s; {args.share:g} of the "
        f"clips, {args.core_share:g} of a core\n"
    )
    print("| | candidates | requests | median, ms | p90, ms | p99, ms | clips compared | dropped |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    pairs = []
    for what, every_seconds in (("a clip a second each", 1.0), ("one after the other", 0.0)):
        taken: dict[bool, list[float]] = {False: [], True: []}
        compared, dropped = 0, router.shadow.dropped
        for half in range(2 * args.pairs):
            beside = half % 4 in (1, 2)  # off, on, on, off: what drifts meets both alike
            candidates.models = of_version(networks, 2) if beside else {}
            taken[beside] += asked(router, tables, seconds=args.seconds, every_seconds=every_seconds)
            compared += sum(found.scenes.total() for found in router.shadow.agreements().values())
        dropped = router.shadow.dropped - dropped
        for beside, seconds in taken.items():
            median, p90, p99 = 1000 * np.percentile(seconds, (50, 90, 99))
            counts = f"{compared} | {dropped}" if beside else "|"
            print(
                f"| {what} | {'yes' if beside else 'no'} | {len(seconds)} | {median:.1f} | {p90:.1f} | "
                f"{p99:.1f} | {counts} |",
                flush=True,
            )
        medians = (1000 * float(np.median(taken[beside])) for beside in (False, True))
        pairs.append(Pair(f"clients, {what}: without candidates, with", *medians, per="request"))
    print()
    keep(show(pairs), args.keep)


def router_of(networks: dict[str, FloatNetwork], **shares: float) -> tuple[DeviceRouter, Candidates]:
    """A router that looks for no candidates: they are given by hand."""
    bundle = Bundle(
        scenes=list(TAU_SCENES), sample_rate=RATE, clip_samples=RATE, max_seconds=60.0, log_mel=LogMel(),
        models=of_version(networks, 1),
    )  # fmt: skip
    follower = Follower(bundle, check_seconds=86_400)
    candidates = Candidates(follower, named=dict)
    router = DeviceRouter()
    router.start(follower, Settings())
    shadow = Shadow(follower, candidates, **shares)
    router.begin_shadow(shadow, ShadowMetrics(shadow))
    return router, candidates


def of_version(networks: dict[str, FloatNetwork], number: int) -> dict[str, RoutedModel]:
    return {device: RoutedModel(one, f"adaptf-{device}/{number}") for device, one in networks.items()}


def requests_of(clients: int) -> list[pd.DataFrame]:
    """One clip each, of the devices by turns."""
    with tempfile.TemporaryDirectory() as folder:
        (clip,) = write_wavs(Path(folder) / "clips", 1)
        audio = base64.b64encode((Path(folder) / "clips" / clip).read_bytes()).decode()
    return [
        pd.DataFrame({"audio": [audio], "device": [DEVICES[number % len(DEVICES)]]})
        for number in range(clients)
    ]


def asked(
    router: DeviceRouter, tables: list[pd.DataFrame], *, seconds: float, every_seconds: float
) -> list[float]:
    """Seconds of each answer, from when it was due; the clients are staggered."""
    start, taken = time.monotonic(), list[float]()

    def client(place: int) -> None:
        due = start + every_seconds * place / len(tables)
        while due < start + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            router.predict(None, tables[place])
            taken.append(time.monotonic() - due)
            due = due + every_seconds if every_seconds else time.monotonic()

    threads = [threading.Thread(target=client, args=(place,)) for place in range(len(tables))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


if __name__ == "__main__":
    main()
