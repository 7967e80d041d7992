"""How often drift is told of devices that have not changed, and how soon of those that have: streams of the
test recordings of a clip table, drawn with replacement, by the models and profiles of a router's bundle.

python benchmarks/drift.py --bundle FOLDER --clips clips.csv --responses FOLDER
"""

import argparse
import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import machine, measure_pair
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor

from adaptf.audio.impulse_response import ResponseBank
from adaptf.data.decode import Resampler, read_mono
from adaptf.data.responses import load_responses
from adaptf.evaluation.profile import KINDS, Profile, histograms, sound_values, values_by_kind
from adaptf.names import UNKNOWN
from adaptf.serving.bundle import Bundle, RoutedModel, read_bundle
from adaptf.serving.drift import Drift, Watch
from adaptf.serving.drift_metrics import DriftMetrics
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import LOGGER
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings

STREAMS, WINDOWS = 100, 10
REQUESTS, REPEATS = 20, 60
CHANGED_DEVICES = ("a", "b", "s1")
RESPONSES = 10
Change = Callable[[Tensor], Tensor]
"""Of waveforms (clips, samples)."""
Counted = list[dict[str, NDArray[np.int64]]]
"""Per clip its histograms by kind."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a router's")
    parser.add_argument("--clips", type=Path, required=True, help="a clip table with test clips")
    parser.add_argument("--responses", type=Path, required=True, help="a folder of impulse responses")
    args = parser.parse_args()
    LOGGER.disabled = True
    bundle, table = read_bundle(args.bundle), pd.read_csv(args.clips)
    table = table[table["split"] == "test"]
    clip = args.clips.parent / table["filename"].iloc[0]
    print_cost(bundle, base64.b64encode(clip.read_bytes()).decode())
    changes = changes_of(args.responses, bundle.sample_rate)
    profiles = {
        device: Profile.from_dict(model.profile) for device, model in bundle.models.items() if model.profile
    }
    print(f"{machine()}; {STREAMS} streams\n")
    print(f"| device | clips, places | {' | '.join(KINDS)} | any | at one place |\n|---|---|{'---:|' * 6}")
    heard: dict[str, tuple[list[NDArray[np.int64]], Tensor]] = {}
    for device, profile in profiles.items():
        rows = table[table["device"] == device if device != UNKNOWN else ~table["device"].isin(profiles)]
        heard[device] = recordings_of(rows), waveforms_of(args.clips.parent, rows, bundle)
        counted = count(heard[device][1], profile, bundle, bundle.models[device])
        watch, recordings = watch_of(bundle, device, profile), heard[device][0]
        shares = [*alarms(watch, counted, recordings), alarms_at_one_place(watch, counted, recordings)]
        told = " | ".join(f"{100 * share:.1f}" for share in shares)
        print(f"| {device} | {profile.clips}, {profile.places} | {told} |", flush=True)
    print(
        "\n| device | change | told, % | clips until then, median | longest | by |"
        "\n|---|---|---:|---:|---:|---|"
    )
    for device in CHANGED_DEVICES:
        recordings, waveforms = heard[device]
        before = count(waveforms, profiles[device], bundle, bundle.models[device])
        for name, change in changes.items():
            after = count(change(waveforms), profiles[device], bundle, bundle.models[device])
            print_change(device, name, watch_of(bundle, device, profiles[device]), before, after, recordings)


def print_cost(bundle: Bundle, audio: str) -> None:
    """Of requests of one clip, one after the other, with and without taking turns."""
    asked = []
    for is_watched in (False, True):
        router, follower = DeviceRouter(), Follower(bundle, check_seconds=10)
        router.start(follower, Settings())
        if is_watched:
            drift = Drift(follower)
            router.tell(drift.heard, DriftMetrics(drift))
        asked.append(partial(ask, router, pd.DataFrame({"audio": [audio], "device": ["a"]})))
    plain, watched = measure_pair(*asked, clips=REQUESTS, repeats=REPEATS)
    print(
        f"{machine()}; a request of one clip: {plain:.2f} ms, with drift watched {watched:.2f} ms\n",
        flush=True,
    )


def ask(router: DeviceRouter, table: pd.DataFrame) -> None:
    for _ in range(REQUESTS):
        router.predict(None, table)


def changes_of(folder: Path, sample_rate: int) -> dict[str, Change]:
    """Microphones, a low-pass and levels."""
    bank = load_responses(folder, sample_rate=sample_rate, level="unit_energy")
    places = np.linspace(0, len(bank) - 1, RESPONSES).round().astype(int)
    low = signal.butter(4, 6000, fs=sample_rate, output="sos")
    return {
        **{f"microphone {place}": through(bank, int(place)) for place in places},
        "low-pass at 6 kHz": lambda clips: torch.from_numpy(signal.sosfilt(low, clips).astype(np.float32)),
        **{f"{gain:+d} dB": louder(gain) for gain in (-20, -10, 10)},
    }


def through(bank: ResponseBank, place: int) -> Change:
    return lambda clips: bank.convolve(clips, torch.full((len(clips),), place))


def louder(gain_db: float) -> Change:
    return lambda clips: (clips * 10 ** (gain_db / 20)).clamp(-1, 1)


def recordings_of(rows: pd.DataFrame) -> list[NDArray[np.int64]]:
    """Places of the clips of each recording, which names as those of TAU tell, in order."""
    recording = rows["filename"].str.rsplit("-", n=2).str[0].to_numpy()
    return [np.flatnonzero(recording == name) for name in np.unique(recording)]


def waveforms_of(root: Path, rows: pd.DataFrame, bundle: Bundle) -> Tensor:
    """(clips, samples)"""
    resample = Resampler(bundle.sample_rate)
    clips = [resample(*read_mono(root / name))[: bundle.clip_samples] for name in rows["filename"]]
    padded = [np.pad(clip, (0, bundle.clip_samples - len(clip))) for clip in clips]
    return torch.from_numpy(np.stack(padded).astype(np.float32))


@torch.inference_mode()
def count(waveforms: Tensor, profile: Profile, bundle: Bundle, model: RoutedModel) -> Counted:
    """As the router would, clip by clip."""
    counted = Counted()
    for some in waveforms.split(16):
        log_mel = bundle.log_mel(some)
        values = values_by_kind(sound_values(log_mel, steps=profile.steps), model.network(log_mel))
        for clip in range(len(some)):
            counted.append(
                {
                    kind: histograms(values[kind][clip : clip + 1], held.edges)
                    for kind, held in profile.kinds.items()
                }
            )
    return counted


def watch_of(bundle: Bundle, device: str, profile: Profile) -> Watch:
    return Watch(device, bundle.models[device], profile)


def stream(recordings: Sequence[NDArray[np.int64]], generator: np.random.Generator) -> Iterator[int]:
    """Clips of one recording after the other, each drawn from all of them."""
    while True:
        yield from recordings[generator.integers(len(recordings))].tolist()


def alarms(watch: Watch, counted: Counted, recordings: Sequence[NDArray[np.int64]]) -> list[float]:
    """Shares of windows that are outside, by kind, and by any."""
    outside = list[set[str]]()
    for number in range(STREAMS):
        clips, fresh = stream(recordings, np.random.default_rng(number)), replace(watch)
        while fresh.windows < WINDOWS:
            before = fresh.windows
            fresh.add(counted[next(clips)], clips=1)
            if fresh.windows > before:
                outside.append(fresh.outside)
    by_kind = [float(np.mean([kind in kinds for kinds in outside])) for kind in KINDS]
    return [*by_kind, float(np.mean([bool(kinds) for kinds in outside]))]


def alarms_at_one_place(watch: Watch, counted: Counted, recordings: Sequence[NDArray[np.int64]]) -> float:
    """Share of recordings that would be outside if a whole window were like them."""
    outside = list[bool]()
    for clips in recordings:
        fresh = replace(watch)
        while not fresh.windows:
            for clip in clips:
                fresh.add(counted[clip], clips=1)
        outside.append(bool(fresh.outside))
    return float(np.mean(outside))


def print_change(
    device: str, name: str, watch: Watch, before: Counted, after: Counted, recordings: list[NDArray[np.int64]]
) -> None:
    """After any part of a window that has not changed yet; a stream that is told of within WINDOWS counts."""
    waits, kinds, profile = list[int](), list[str](), watch.profile
    assert profile
    for number in range(STREAMS):
        generator = np.random.default_rng(number)
        clips, fresh = stream(recordings, generator), replace(watch)
        for _ in range(generator.integers(profile.window_clips)):
            fresh.add(before[next(clips)], clips=1)
        wait = 0
        while not fresh.outside and wait < WINDOWS * profile.window_clips:
            fresh.add(after[next(clips)], clips=1)
            wait += 1
        if fresh.outside:
            waits.append(wait)
            kinds += sorted(fresh.outside)
    by = ", ".join(f"{kind} {100 * kinds.count(kind) // STREAMS}" for kind in KINDS if kind in kinds)
    figures = f"{np.median(waits):.0f} | {max(waits)}" if waits else "|"
    print(f"| {device} | {name} | {100 * len(waits) / STREAMS:.0f} | {figures} | {by} |", flush=True)


if __name__ == "__main__":
    main()
