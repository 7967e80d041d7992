"""The demo data: synthesised sounds in the layouts of TAU Urban Acoustic Scenes 2022 Mobile and of AudioSet.

root/tau/audio/<scene>-<city>-<location>-<recording>-<segment>-<device>.wav      1 s, 44.1 kHz, 16 bit, mono
root/tau/meta.csv                                                                and
evaluation_setup/fold1_*.csv root/tau/evaluation_set/audio/<number>.wav, evaluation_setup/test.csv, labels.csv
(hidden truth) root/audioset/audio/<ytid>_<start in ms>.wav                                     3 s, 32 kHz,
16 bit, mono root/audioset/balanced_train_segments.csv, class_labels_indices.csv root/README.txt,
demo.json settings and counts
"""

import csv
import json
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.fft import irfft, next_fast_len, rfft
from tqdm import tqdm

from adaptf.audio.simulated_microphones import compress, simulate_responses
from adaptf.data.folders import files_below
from adaptf.demo.sounds import SCENE_RECIPES, Clips, render_events, render_scene
from adaptf.files import written_aside

# Part of the settings: data of an older generator is not taken for that of this one.
_GENERATOR = 1
_DESCRIPTION = "demo.json"
_TAU_RATE = 44100
_AUDIOSET_RATE = 32000
_AUDIOSET_BATCH = 25
_SEGMENTS_PER_RECORDING = 10
CITIES = (
    "barcelona",
    "helsinki",
    "lisbon",
    "london",
    "lyon",
    "milan",
    "paris",
    "prague",
    "stockholm",
    "vienna",
)
TRAINING_DEVICES = ("a", "b", "c", "s1", "s2", "s3")
_TEST_DEVICES = (*TRAINING_DEVICES, "s4", "s5", "s6")
_EVALUATION_DEVICES = (*TRAINING_DEVICES, "s7", "s8", "s9", "s10")
_SIMULATED_DEVICES = ("b", "c", *(f"s{number}" for number in range(1, 11)))
# Far from the seeds that a bank for augmentation is drawn with: no demo device may be in it.
_DEVICE_SEED = 2_022_000_000
_RECORDER_NOISE_DB = -62.0

# Sound, AudioSet's identifier of the class, its display name.
EVENT_CLASSES = {
    "engine": ("/m/02mk9", "Engine"),
    "siren": ("/m/03kmc9", "Siren"),
    "bird": ("/m/015p6", "Bird"),
    "chirp": ("/m/07pggtn", "Chirp, tweet"),
    "wind": ("/m/03m9d0z", "Wind"),
    "rain": ("/m/06mb1", "Rain"),
    "footsteps": ("/m/07pbtc8", "Walk, footsteps"),
    "babble": ("/m/07qfr4h", "Hubbub, speech noise, speech babble"),
    "speech": ("/m/09x0r", "Speech"),
    "beep": ("/m/02fs_r", "Beep, bleep"),
    "door": ("/m/02dgv", "Door"),
    "rumble": ("/m/07phhsh", "Rumble"),
    "hum": ("/m/07rcgpl", "Hum"),
    "hiss": ("/m/07rjwbb", "Hiss"),
    "music": ("/m/04rlf", "Music"),
    "horn": ("/m/0912c9", "Vehicle horn, car horn, honking"),
    "air_brake": ("/m/0gvgw0", "Air brake"),
    "squeal": ("/t/dd00048", "Train wheels squealing"),
    "clickety_clack": ("/m/07rwm0c", "Clickety-clack"),
    "insect": ("/m/03vt0", "Insect"),
    "stream": ("/m/0j6m2", "Stream"),
    "clatter": ("/m/07qmpdm", "Clatter"),
    "bell": ("/m/0395lw", "Bell"),
    "traffic": ("/m/0btp2", "Traffic noise, roadway noise"),
}

_README = """Demo data of adaptf

Synthesised sounds; figures on them say nothing about real scenes.

tau/       the layout of TAU Urban Acoustic Scenes 2022 Mobile: ten scenes, devices a, b, c, s1-s3 (training)
           and s4-s6 besides (test); evaluation_set/ with devices that are not named, labels.csv its hidden
           truth.
audioset/  the layout of AudioSet: audio/<ytid>_<start in milliseconds>.wav for the rows of
           balanced_train_segments.csv. The identifiers belong to no video, and some files are missing on
           purpose.
demo.json  the settings that this data is a function of, and the counts.
"""


@dataclass(frozen=True)
class DemoSummary:
    """The two folders of a demo set and how many clips they hold."""

    tau: Path
    audioset: Path
    training_clips: int
    test_clips: int
    evaluation_clips: int
    audioset_clips: int
    """Clips of AudioSet with an audio file."""
    audioset_missing: int
    """Clips that AudioSet's table lists besides, without an audio file."""


@dataclass(frozen=True)
class _Part:
    """A part of the TAU data: every scene has as many locations, every location as many clips."""

    number: int
    locations: int
    clips_per_location: int
    first_location: int

    @property
    def end_location(self) -> int:
        return self.first_location + len(SCENE_RECIPES) * self.locations


class _MetaRow(NamedTuple):
    """A row of TAU's meta.csv."""

    filename: str
    scene_label: str
    identifier: str
    source_label: str


def write_demo(
    root: Path,
    *,
    seed: int = 0,
    training_locations: int = 13,
    clips_per_training_location: int = 5,
    device_share: float = 0.07,
    test_locations: int = 15,
    clips_per_test_location: int = 2,
    evaluation_locations: int = 2,
    clips_per_evaluation_location: int = 3,
    audioset_clips: int = 300,
    audioset_seconds: float = 3.0,
    audioset_missing: int = 3,
) -> DemoSummary:
    """Write the demo data to the folder `root`, or return the same data where it is already there.

    Locations count per scene. Device a records every training clip, `device_share` of them (at least one per
    scene) are recorded by each of b, c, s1, s2 and s3 too; every test clip is recorded by all nine devices.
    `audioset_missing` of the `audioset_clips` get no audio file. The data is a function of the arguments;
    no random state outside is used.

    A set appears under its name only when it is whole: it is written to a hidden folder beside `root` and
    renamed. Raises FileExistsError where `root` holds anything but a whole set of these settings,
    ValueError where a size is too small.
    """
    # Every argument but the folder decides about the content.
    settings = {name: value for name, value in locals().items() if name != "root"} | {"generator": _GENERATOR}
    _check(settings)
    root = Path(root).absolute()
    if (found := _existing(root, settings)) is not None:
        return found
    training = _Part(0, training_locations, clips_per_training_location, 1000)
    test = _Part(1, test_locations, clips_per_test_location, training.end_location)
    evaluation = _Part(2, evaluation_locations, clips_per_evaluation_location, test.end_location)
    with (
        written_aside(root, flush=False) as partial,
        tqdm(desc="demo data", unit=" clips", disable=None) as progress,
    ):
        partial.mkdir(parents=True)
        counts = _write_tau(partial / "tau", seed, training, test, evaluation, device_share, progress.update)
        counts |= _write_audioset(
            partial / "audioset",
            seed,
            audioset_clips,
            audioset_seconds,
            audioset_missing,
            progress.update,
        )
        (partial / "README.txt").write_text(_README, encoding="utf-8")
        description = {"settings": settings, "counts": counts}
        (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return DemoSummary(root / "tau", root / "audioset", **counts)


def is_demo(folder: Path) -> bool:
    """Whether a data set's folder (tau/ or audioset/) belongs to demo data."""
    return (folder.parent / _DESCRIPTION).is_file()


def _check(settings: dict[str, float]) -> None:
    smallest = {"seed": 0, "device_share": 0, "audioset_missing": 0, "audioset_seconds": 0.1}
    for name, value in settings.items():
        if value < smallest.get(name, 1):
            raise ValueError(f"{name} is {value}; it has to be {smallest.get(name, 1)} or more")
    if settings["device_share"] > 1:
        raise ValueError(f"device_share is {settings['device_share']}; it is a share, 0 to 1")
    if settings["audioset_missing"] > settings["audioset_clips"]:
        raise ValueError(
            f"audioset_missing is {settings['audioset_missing']}, more than all {settings['audioset_clips']} "
            "clips"
        )


def _existing(root: Path, settings: dict[str, float]) -> DemoSummary | None:
    """The demo set at `root`; None where nothing is there. Raises FileExistsError where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        description = json.loads((root / _DESCRIPTION).read_text(encoding="utf-8"))
        counts = description["counts"]
        written = description["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{root} is not demo data; name a folder that does not exist yet") from None
    if written != settings:
        differences = {
            name: (written.get(name), value) for name, value in settings.items() if written.get(name) != value
        }
        raise FileExistsError(
            f"{root} holds demo data of other settings (there, wanted): {differences}; remove it or name "
            "another folder"
        )
    files = len(files_below(root, suffixes=(".wav",)))
    expected = sum(count for name, count in counts.items() if name != "audioset_missing")
    if files != expected:
        raise FileExistsError(
            f"{root} holds {files} audio files instead of {expected}; remove it or name another folder"
        )
    return DemoSummary(root / "tau", root / "audioset", **counts)


def _write_tau(
    folder: Path,
    seed: int,
    training: _Part,
    test: _Part,
    evaluation: _Part,
    device_share: float,
    progress: Callable[[int], object],
) -> dict[str, int]:
    """Write TAU's folder; returns the numbers of clips by their name in DemoSummary."""
    bank = simulate_responses(len(_SIMULATED_DEVICES), sample_rate=_TAU_RATE, seed=_DEVICE_SEED + seed)
    responses = dict(zip(_SIMULATED_DEVICES, bank, strict=True))
    for subfolder in ("audio", "evaluation_setup", "evaluation_set/audio", "evaluation_set/evaluation_setup"):
        (folder / subfolder).mkdir(parents=True)
    train_rows = _write_part(folder, seed, training, TRAINING_DEVICES, device_share, responses, progress)
    test_rows = _write_part(folder, seed, test, _TEST_DEVICES, 1.0, responses, progress)
    setup = folder / "evaluation_setup"
    _write_table(folder / "meta.csv", _MetaRow._fields, train_rows + test_rows)
    _write_table(setup / "fold1_train.csv", _MetaRow._fields[:2], [row[:2] for row in train_rows])
    _write_table(setup / "fold1_test.csv", _MetaRow._fields[:1], [row[:1] for row in test_rows])
    _write_table(setup / "fold1_evaluate.csv", _MetaRow._fields[:2], [row[:2] for row in test_rows])
    hidden = _write_evaluation_set(folder / "evaluation_set", seed, evaluation, responses, progress)
    return {"training_clips": len(train_rows), "test_clips": len(test_rows), "evaluation_clips": hidden}


def _write_part(
    folder: Path,
    seed: int,
    part: _Part,
    devices: Sequence[str],
    device_share: float,
    responses: dict[str, np.ndarray],
    progress: Callable[[int], object],
) -> list[_MetaRow]:
    """Write the audio of a part: all clips of device a, `device_share` of them for each other device."""
    rows = []
    for number, scene in enumerate(SCENE_RECIPES):
        rng = np.random.default_rng((seed, part.number, number))
        signals = _render_scene(scene, part, rng)
        for device in devices:
            count = len(signals) if device == "a" else max(1, round(device_share * len(signals)))
            chosen = _spread_over_locations(rng, part, count)
            clips = [_clip(scene, part, number, index, device) for index in chosen]
            recorded = _record(signals[chosen], device, responses, rng)
            _write_audio([folder / clip.filename for clip in clips], recorded, _TAU_RATE)
            rows += clips
            progress(count)
    return rows


def _render_scene(scene: str, part: _Part, rng: np.random.Generator) -> np.ndarray:
    """Clips (locations * clips_per_location, samples) as device a hears them, ordered by location."""
    place = np.repeat(np.arange(part.locations), part.clips_per_location)
    return render_scene(SCENE_RECIPES[scene], Clips(rng, place, _TAU_RATE, _TAU_RATE))


def _spread_over_locations(rng: np.random.Generator, part: _Part, count: int) -> np.ndarray:
    """Ordered indices of `count` clips: no location gives a second one before every location gave one."""
    turns = rng.permuted(np.tile(np.arange(part.clips_per_location), (part.locations, 1)), axis=1).ravel()
    return np.sort(np.lexsort((rng.random(turns.size), turns))[:count])


def _clip(scene: str, part: _Part, scene_number: int, index: int, device: str) -> _MetaRow:
    place, clip = divmod(int(index), part.clips_per_location)
    location = part.first_location + scene_number * part.locations + place
    city = CITIES[location % len(CITIES)]
    recording, segment = divmod(clip, _SEGMENTS_PER_RECORDING)
    # TAU numbers recordings through all locations; a hundred for each are enough to keep the numbers apart.
    recording += 100 * location
    return _MetaRow(
        f"audio/{scene}-{city}-{location}-{recording}-{segment}-{device}.wav",
        scene,
        f"{city}-{location}",
        device,
    )


def _record(
    signals: np.ndarray, device: str, responses: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """`signals` (clips, samples) as `device` hears them:
    its response, then compression (s) or noise (b, c)."""
    if device == "a":
        return signals
    samples = signals.shape[1]
    length = next_fast_len(samples + len(responses[device]) - 1, real=True)
    heard = irfft(rfft(signals, length, axis=1) * rfft(responses[device], length), length, axis=1)[
        :, :samples
    ]
    if device.startswith("s"):
        return compress(heard, sample_rate=_TAU_RATE)
    return heard + 10 ** (_RECORDER_NOISE_DB / 20) * rng.standard_normal(heard.shape, dtype=np.float32)


def _write_evaluation_set(
    folder: Path, seed: int, part: _Part, responses: dict[str, np.ndarray], progress: Callable[[int], object]
) -> int:
    """Write clips in random order, each from one of ten devices of which four are not named;
    returns how many."""
    rng = np.random.default_rng((seed, part.number))
    scenes = np.repeat(list(SCENE_RECIPES), part.locations * part.clips_per_location)
    signals = np.concatenate([_render_scene(scene, part, rng) for scene in SCENE_RECIPES])
    order = rng.permutation(len(signals))
    devices = rng.permutation(np.resize(_EVALUATION_DEVICES, len(signals)))
    names = [f"audio/{number}.wav" for number in range(len(signals))]
    for device in np.unique(devices):
        chosen = np.flatnonzero(devices == device)
        recorded = _record(signals[order[chosen]], str(device), responses, rng)
        _write_audio([folder / names[number] for number in chosen], recorded, _TAU_RATE)
    told = [device if device in TRAINING_DEVICES else "unknown" for device in devices]
    _write_table(
        folder / "evaluation_setup/test.csv", ("filename", "device_id"), zip(names, told, strict=True)
    )
    truth = zip(names, scenes[order], devices, strict=True)
    _write_table(folder / "labels.csv", ("filename", "scene_label", "source_label"), truth)
    progress(len(names))
    return len(names)


def _write_audioset(
    folder: Path, seed: int, clips: int, clip_seconds: float, missing: int, progress: Callable[[int], object]
) -> dict[str, int]:
    """Write AudioSet's folder; returns the numbers of clips by their name in DemoSummary."""
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng((seed, 3))
    events = _draw_events(rng, clips)
    letters = np.array(list(string.ascii_letters + string.digits + "-_"))
    ids = ["".join(row) for row in rng.choice(letters, (clips, 11))]
    starts = 10 * rng.integers(0, 30, clips)
    _write_segments(folder / "balanced_train_segments.csv", ids, starts, clip_seconds, events)
    _write_classes(folder / "class_labels_indices.csv")
    there = np.sort(rng.permutation(clips)[missing:])
    for batch in np.split(there, range(_AUDIOSET_BATCH, len(there), _AUDIOSET_BATCH)):
        present = dict(zip(EVENT_CLASSES, events[batch].T, strict=True))
        samples = round(clip_seconds * _AUDIOSET_RATE)
        signals = render_events(present, Clips(rng, np.arange(len(batch)), samples, _AUDIOSET_RATE))
        paths = [folder / "audio" / f"{ids[clip]}_{1000 * starts[clip]}.wav" for clip in batch]
        _write_audio(paths, signals, _AUDIOSET_RATE)
        progress(len(batch))
    return {"audioset_clips": len(there), "audioset_missing": missing}


def _draw_events(rng: np.random.Generator, clips: int) -> np.ndarray:
    """Which classes every clip has, (clips, classes) of bool:
    one to three, all classes about equally often."""
    classes = len(EVENT_CLASSES)
    events = np.zeros((clips, classes), bool)
    events[np.arange(clips), rng.permutation(clips) % classes] = True
    for more in (0.6, 0.4):
        chosen = np.flatnonzero(rng.random(clips) < more)
        events[chosen, rng.integers(0, classes, len(chosen))] = True
    return events


def _write_segments(
    path: Path, ids: list[str], starts: np.ndarray, clip_seconds: float, events: np.ndarray
) -> None:
    """AudioSet's table: three lines of comment,
    a blank after every comma but those within the quoted labels."""
    identifiers = np.array([identifier for identifier, _ in EVENT_CLASSES.values()])
    lines = [
        "# Segments csv of the demo data",
        f"# num_ytids={len(ids)}, num_segs={len(ids)}, "
        f"num_unique_labels={len(identifiers)}, num_positive_labels={events.sum()}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    for name, start, present in zip(ids, starts, events, strict=True):
        lines.append(f'{name}, {start:.3f}, {start + clip_seconds:.3f}, "{",".join(identifiers[present])}"')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_classes(path: Path) -> None:
    lines = ["index,mid,display_name"]
    lines += [f'{index},{mid},"{name}"' for index, (mid, name) in enumerate(EVENT_CLASSES.values())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_audio(paths: Sequence[Path], signals: np.ndarray, rate: int) -> None:
    """Write `signals` (clips, samples), full scale 1, as 16 bit mono."""
    for path, samples in zip(paths, np.round(32767 * signals.clip(-1, 1)).astype(np.int16), strict=True):
        soundfile.write(path, samples, rate, subtype="PCM_16")


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table as TAU has them: tab separated, lines ended by a line feed."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
