import csv
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptf.demo import data_sets as demo
from adaptf.demo.sounds import SCENE_RECIPES, SOUNDS, Clips, render_scene, unit

pytestmark = pytest.mark.slow

SMALL = {
    "training_locations": 2,
    "clips_per_training_location": 2,
    "test_locations": 1,
    "clips_per_test_location": 1,
    "evaluation_locations": 1,
    "clips_per_evaluation_location": 2,
    "audioset_clips": 26,
    "audioset_seconds": 0.5,
    "audioset_missing": 2,
}
TINY = SMALL | {"clips_per_training_location": 1, "clips_per_evaluation_location": 1, "audioset_clips": 3}
TRAINING_DEVICES = {"a", "b", "c", "s1", "s2", "s3"}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> demo.DemoSummary:
    return demo.write_demo(tmp_path_factory.mktemp("data") / "demo", seed=1, **SMALL)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("meta.csv", "filename\tscene_label\tidentifier\tsource_label"),
        ("evaluation_setup/fold1_train.csv", "filename\tscene_label"),
        ("evaluation_setup/fold1_test.csv", "filename"),
        ("evaluation_setup/fold1_evaluate.csv", "filename\tscene_label"),
        ("evaluation_set/evaluation_setup/test.csv", "filename\tdevice_id"),
        ("evaluation_set/labels.csv", "filename\tscene_label\tsource_label"),
    ],
)
def test_tables_have_the_columns_of_tau(written, table, columns):
    content = (written.tau / table).read_bytes()
    assert content.startswith(f"{columns}\n".encode())
    assert b"\r" not in content


def test_every_file_name_says_what_meta_says(written):
    rows = read_table(written.tau / "meta.csv")
    assert len({row["filename"] for row in rows}) == len(rows)
    for row in rows:
        folder, name = row["filename"].split("/")
        scene, city, location, recording, segment, device = name.removesuffix(".wav").split("-")
        assert folder == "audio"
        assert (scene, f"{city}-{location}", device) == (
            row["scene_label"],
            row["identifier"],
            row["source_label"],
        )
        assert city in demo.CITIES
        assert recording.isdigit() and segment.isdigit()


def test_meta_lists_the_folds_and_the_files_exactly(written):
    meta = {row["filename"] for row in read_table(written.tau / "meta.csv")}
    train = {row["filename"] for row in read_table(written.tau / "evaluation_setup/fold1_train.csv")}
    test = [row["filename"] for row in read_table(written.tau / "evaluation_setup/fold1_test.csv")]
    evaluate = [row["filename"] for row in read_table(written.tau / "evaluation_setup/fold1_evaluate.csv")]
    assert test == evaluate
    assert train.isdisjoint(test)
    assert train | set(test) == meta == {f"audio/{path.name}" for path in (written.tau / "audio").iterdir()}
    assert (written.training_clips, written.test_clips) == (len(train), len(test)) == (90, 90)


def test_tau_clips_last_one_second_at_44100_hz(written):
    files = [*(written.tau / "audio").iterdir(), *(written.tau / "evaluation_set/audio").iterdir()]
    for path in files:
        info = soundfile.info(path)
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (44100, 44100, 1, "PCM_16")


def test_clips_are_neither_silent_nor_all_alike(written):
    clips = [soundfile.read(path)[0] for path in sorted((written.tau / "audio").glob("*-a.wav"))]
    levels_db = 20 * np.log10(np.std(clips, axis=1))
    assert levels_db.min() > -70
    assert levels_db.std() > 2


def test_no_location_is_in_training_and_test(written):
    locations = {row["filename"]: row["identifier"] for row in read_table(written.tau / "meta.csv")}
    train = {
        locations[row["filename"]] for row in read_table(written.tau / "evaluation_setup/fold1_train.csv")
    }
    test = {locations[row["filename"]] for row in read_table(written.tau / "evaluation_setup/fold1_test.csv")}
    assert train.isdisjoint(test)
    assert (len(train), len(test)) == (20, 10)


def test_every_training_device_has_every_scene(written):
    meta = {row["filename"]: row for row in read_table(written.tau / "meta.csv")}
    train = [meta[row["filename"]] for row in read_table(written.tau / "evaluation_setup/fold1_train.csv")]
    pairs = {(row["source_label"], row["scene_label"]) for row in train}
    assert pairs == {(device, scene) for device in TRAINING_DEVICES for scene in SCENE_RECIPES}


def test_every_test_clip_is_recorded_by_all_nine_devices_of_which_three_are_not_in_training(written):
    test = [row["filename"] for row in read_table(written.tau / "evaluation_setup/fold1_test.csv")]
    devices: dict[str, set[str]] = {}
    for name in test:
        clip, device = name.removesuffix(".wav").rsplit("-", 1)
        devices.setdefault(clip, set()).add(device)
    assert all(found == TRAINING_DEVICES | {"s4", "s5", "s6"} for found in devices.values())


def test_devices_other_than_a_change_the_sound(written):
    original = next((written.tau / "audio").glob("park-*-s5.wav"))
    sounds = [
        soundfile.read(str(original).replace("-s5.wav", f"-{device}.wav"))[0] for device in ("a", "c", "s5")
    ]
    assert not np.allclose(sounds[0], sounds[1])
    assert not np.allclose(sounds[0], sounds[2])


def test_few_recordings_are_repeated_and_they_are_spread_over_locations():
    part = demo._Part(0, locations=6, clips_per_location=4, first_location=1000)
    chosen = demo._spread_over_locations(np.random.default_rng(0), part, 8)
    assert len(set(chosen.tolist())) == 8
    assert sorted(np.bincount(chosen // 4, minlength=6)) == [1, 1, 1, 1, 2, 2]


def test_the_evaluation_set_hides_four_devices_as_unknown(written):
    folder = written.tau / "evaluation_set"
    told = {row["filename"]: row["device_id"] for row in read_table(folder / "evaluation_setup/test.csv")}
    truth = {row["filename"]: row for row in read_table(folder / "labels.csv")}
    assert told.keys() == truth.keys() == {f"audio/{path.name}" for path in (folder / "audio").iterdir()}
    assert len(told) == written.evaluation_clips == 20
    assert {row["scene_label"] for row in truth.values()} == set(SCENE_RECIPES)
    for name, device in told.items():
        real = truth[name]["source_label"]
        assert device == (real if real in TRAINING_DEVICES else "unknown")
    assert set(told.values()) == TRAINING_DEVICES | {"unknown"}


def test_audioset_tables_are_written_as_audioset_writes_them(written):
    lines = (written.audioset / "balanced_train_segments.csv").read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:3])
    assert lines[2] == "# YTID, start_seconds, end_seconds, positive_labels"
    classes = (written.audioset / "class_labels_indices.csv").read_text().splitlines()
    assert classes[0] == "index,mid,display_name"
    mids = {row[1]: int(row[0]) for row in csv.reader(classes[1:])}
    assert sorted(mids.values()) == list(range(24))
    seen = set()
    for line in lines[3:]:
        name, start, end, labels = line.split(", ", 3)
        assert len(name) == 11
        assert float(end) - float(start) == 0.5
        assert labels.startswith('"') and labels.endswith('"')
        found = labels.strip('"').split(",")
        assert 1 <= len(found) <= 3
        seen.update(found)
    assert seen == mids.keys()


def test_some_rows_of_audioset_have_no_file(written):
    rows = (written.audioset / "balanced_train_segments.csv").read_text().splitlines()[3:]
    expected = {f"{row.split(', ')[0]}_{round(1000 * float(row.split(', ')[1]))}.wav" for row in rows}
    found = {path.name for path in (written.audioset / "audio").iterdir()}
    assert found < expected
    assert len(expected - found) == written.audioset_missing == 2
    assert len(found) == written.audioset_clips == 24


def test_audioset_clips_have_32000_hz(written):
    for path in (written.audioset / "audio").iterdir():
        info = soundfile.info(path)
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (16000, 32000, 1, "PCM_16")


def test_every_sound_is_an_audioset_class_and_every_layer_a_sound():
    assert demo.EVENT_CLASSES.keys() == SOUNDS.keys()
    assert {name for scene in SCENE_RECIPES.values() for name, _, _ in scene.layers} <= SOUNDS.keys()


@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_is_finite_and_no_two_clips_of_it_are_alike(name):
    sounds = unit(SOUNDS[name](Clips(np.random.default_rng(0), np.array([0, 0, 1]), 22050, 22050)))
    assert sounds.shape == (3, 22050)
    assert np.isfinite(sounds).all()
    assert not np.allclose(sounds[0], sounds[1], atol=0.1)


def test_clips_of_one_place_have_more_in_common_than_clips_of_different_places():
    place = np.repeat(np.arange(12), 4)
    clips = render_scene(SCENE_RECIPES["tram"], Clips(np.random.default_rng(0), place, 22050, 22050))
    power = np.abs(np.fft.rfft(clips, axis=1))[:, 1:11001].reshape(48, 100, 110) ** 2
    bands_db = 10 * np.log10(power.mean(axis=2)).reshape(12, 4, 100)
    assert bands_db.std(axis=1).mean() < bands_db.mean(axis=1).std(axis=0).mean()


def test_same_seed_same_bytes_and_another_seed_other_ones(written, tmp_path):
    first = digests(written.tau.parent)
    same = demo.write_demo(tmp_path / "same", seed=1, **SMALL)
    assert digests(same.tau.parent) == first
    other = demo.write_demo(tmp_path / "other", seed=2, **SMALL)
    assert not set(digests(other.tau).values()) & {
        digest for name, digest in first.items() if name.endswith(".wav")
    }


def test_the_readme_says_that_the_sounds_are_synthesised(written):
    text = (written.tau.parent / "README.txt").read_text()
    assert "Synthesised sounds; figures on them say nothing about real scenes." in text


def test_a_whole_set_is_returned_as_it_is(written, monkeypatch):
    monkeypatch.setattr(demo, "_write_tau", None)
    assert demo.write_demo(written.tau.parent, seed=1, **SMALL) == written
    hidden = written.tau / "audio/._copied by macOS.wav"
    hidden.write_bytes(b"")
    assert demo.write_demo(written.tau.parent, seed=1, **SMALL) == written
    hidden.unlink()


def test_a_set_of_other_settings_is_refused(written):
    with pytest.raises(FileExistsError, match=r"'seed': \(1, 2\)"):
        demo.write_demo(written.tau.parent, seed=2, **SMALL)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not demo data"):
        demo.write_demo(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled_and_refused_once_a_file_is_lost(tmp_path):
    summary = demo.write_demo(tmp_path, **TINY)
    next((summary.tau / "audio").iterdir()).unlink()
    with pytest.raises(FileExistsError, match="audio files instead of"):
        demo.write_demo(tmp_path, **TINY)


def test_an_error_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_tau", lambda folder, *_: folder.mkdir() or {})
    monkeypatch.setattr(demo, "_write_audioset", fail)
    with pytest.raises(KeyboardInterrupt):
        demo.write_demo(tmp_path / "demo", **TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_process_killed_half_way_leaves_nothing_that_is_taken_for_whole(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from adaptf.demo import data_sets as demo\n"
        "demo._write_audioset = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"demo.write_demo(Path(sys.argv[1]), **{TINY!r})"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "demo")], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "demo").exists()
    assert demo.write_demo(tmp_path / "demo", **TINY).training_clips == 10 * (2 + 5 * 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test_locations": 0}, "test_locations is 0"),
        ({"device_share": 7}, "device_share is 7"),
        ({"audioset_missing": 9}, "audioset_missing is 9"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_sizes_are_quoted(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        demo.write_demo(tmp_path / "demo", **(TINY | wrong))


def test_demo_data_is_told_from_other_data(written, tmp_path):
    assert demo.is_demo(written.tau) and demo.is_demo(written.audioset)
    assert not demo.is_demo(tmp_path)
