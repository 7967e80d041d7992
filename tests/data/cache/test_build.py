"""Building the waveform cache: what is decoded when, and what is left when a build ends early."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptf.data.cache import build as building
from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat, Shard
from adaptf.data.decode import decode
from adaptf.data.errors import DataError

FORMAT = CacheFormat(sample_rate=32000, clip_samples=32000)


@pytest.fixture
def build(tau, names, tmp_path):
    """Builds a cache of all clips, or of others."""

    def run(files=names, *, folder="cache", format=FORMAT):
        return build_cache(tau, files, cache_root=tmp_path / folder, format=format)

    return run


@pytest.fixture
def decoded(monkeypatch):
    """Names of the clips that are decoded, by this process in place of others."""
    seen = []

    def decode_here(root, shard, clips, row):
        seen.extend(clip.name for clip in clips)
        return original(root, shard, clips, row)

    original = building.decode_block
    monkeypatch.setattr(building, "decode_block", decode_here)
    monkeypatch.setattr(building, "process_pool", lambda workers: building.ThreadPoolExecutor(workers))
    return seen


def contents(folder):
    """Every file of the cache but the lock, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def read_all(built):
    return built.waveforms.read(built.waveforms.rows_of(list(built.clips["key"])))


def decode_all(root, names):
    return torch.from_numpy(np.stack([decode(root / name, sample_rate=32000) for name in names]))


def test_a_second_build_decodes_nothing(build, names, decoded):
    first = build()
    assert sorted(decoded) == names
    again = build()
    assert len(decoded) == len(names)
    assert again.clips.equals(first.clips)


def test_only_changed_and_new_files_are_decoded_again(tau, build, names, decoded):
    build(names[:30])
    decoded.clear()
    soundfile.write(tau / names[3], np.full(44100, 0.25), 44100)
    built = build()
    assert sorted(decoded) == sorted([names[3], *names[30:]])
    assert torch.equal(read_all(built), decode_all(tau, names))


def test_a_renamed_or_touched_file_is_not_decoded_again(tau, build, names, decoded):
    build()
    decoded.clear()
    (tau / names[0]).rename(tau / "audio/renamed.wav")
    os.utime(tau / names[1], (0, 0))
    built = build(["audio/renamed.wav", *names[1:]])
    assert not decoded
    assert torch.equal(read_all(built)[0], decode_all(tau, ["audio/renamed.wav"])[0])


def test_another_length_or_type_is_a_cache_of_its_own(build, tmp_path):
    folders = {
        build(format=format).waveforms.folder.name
        for format in (FORMAT, CacheFormat(32000, 16000), CacheFormat(32000, 32000, "int16"))
    }
    assert folders == {"32000hz-32000-float32", "32000hz-16000-float32", "32000hz-32000-int16"}


def test_the_same_audio_under_two_names_is_kept_once(tau, build, names):
    shutil.copy(tau / names[0], tau / names[5])
    built = build()
    assert len(built.waveforms) == len(names) - 1
    assert built.clips["key"][0] == built.clips["key"][5]
    assert torch.equal(read_all(built), decode_all(tau, names))


def test_missing_files_are_named(tau, build, names):
    (tau / names[3]).unlink()
    with pytest.raises(DataError, match=f"{names[3]}: the file is missing"):
        build()


def test_files_that_cannot_be_read_are_named(tau, build, names):
    (tau / names[3]).unlink()
    (tau / names[3]).symlink_to("/proc/self/mem")  # which opens, but cannot be read, not even by root
    with pytest.raises(
        DataError, match=rf"1 problem in .*\n.*{names[3]}: it can't be read \(Input/output error\)"
    ):
        build()


def test_clips_are_cached_from_files_whose_names_look_the_same(tau, build, names):
    before = build().clips
    for name in names:
        composed = (tau / name).with_name((tau / name).name.replace("airport", "a\u00efrport"))
        (tau / name).rename(composed.with_name(composed.name.replace("\u00ef", "i\u0308")))
    renamed = [name.replace("/airport", "/a\u00efrport") for name in names]
    assert build(renamed).clips.equals(before)


@pytest.mark.parametrize("content", [b"", b"RIFF\x10\x00\x00\x00WAVEjunk", b"this is no audio at all"])
def test_files_that_are_no_audio_are_told_and_all_others_are_cached(tau, build, names, content):
    (tau / names[5]).write_bytes(content)
    built = build()
    problems = built.clips["problem"]
    assert problems[5].startswith("not readable as audio (")
    assert (problems.drop(5) == "").all()
    others = [place for place in range(len(names)) if place != 5]
    assert torch.equal(read_all(built)[others], decode_all(tau, [names[place] for place in others]))


def test_levels_are_those_of_the_recording(tau, build, names):
    loud = np.clip(2 * np.sin(np.arange(44100) / 10), -1, 1)
    soundfile.write(tau / names[0], loud, 44100, subtype="PCM_16")
    soundfile.write(tau / names[1], np.full(22050, 0.5), 44100, subtype="FLOAT")
    clips = build().clips
    assert clips["peak"][0] == pytest.approx(1, abs=1e-3)
    assert clips["clipped"][0] == pytest.approx(2 / 3, abs=0.01)
    assert clips.loc[1, ["samples", "peak", "rms", "dc", "clipped"]].tolist() == [16000, 0.5, 0.5, 0.5, 0.0]


def test_a_longer_clip_is_cut_and_a_shorter_one_padded(tau, build, names):
    soundfile.write(tau / names[0], np.full(16000, 0.5), 32000)
    soundfile.write(tau / names[1], np.full(48000, 0.5), 32000)
    padded, cut = read_all(build())[:2]
    assert padded[:16000].min() > 0.49
    assert padded[16000:].abs().max() == 0
    assert cut.min() > 0.49


def test_samples_that_are_not_those_of_the_manifest_are_found(build):
    path = build().waveforms.folder / "0000.samples"
    content = bytearray(path.read_bytes())
    content[3 * 128000 + 77] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"0000\.samples: the samples of row 3 are not those that its manifest describes"
    ):
        build()


def test_what_is_behind_the_manifests_last_row_is_not_there(tau, build, names):
    """As a build leaves it that was killed between writing samples and manifest."""
    built = build(names[:20])
    with open(built.waveforms.folder / "0000.samples", "ab") as file:
        file.write(b"half a clip")
    assert torch.equal(read_all(build()), decode_all(tau, names))


CHILD = """
import sys, time
from pathlib import Path
from adaptf.data.cache import build as building
from adaptf.data.cache.shards import CacheFormat
building.CLIPS_PER_BLOCK, building._SECONDS_BETWEEN_COMMITS = 2, {seconds}
cut = building.cut_file
def slow(*given, **named):
    time.sleep({delay})
    return cut(*given, **named)
building.cut_file = slow
root, cache = Path({root!r}), Path({cache!r})
names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav"))
print("begins", flush=True)
building.build_cache(root, names, cache_root=cache, format=CacheFormat(32000, 32000))
print("done", flush=True)
"""


def start_child(root, cache, *, delay, seconds=0.0):
    program = textwrap.dedent(CHILD).format(root=str(root), cache=str(cache), delay=delay, seconds=seconds)
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begins\n"
    return child


def children_of(process):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("after_seconds", [0.25, 0.6, 1.0])
def test_killed_in_the_middle_and_run_again_gives_the_same_bytes_as_in_one_go(
    tau, build, tmp_path, after_seconds
):
    whole = contents(build(folder="whole").waveforms.folder)
    child = start_child(tau, tmp_path / "cache", delay=0.1)
    time.sleep(after_seconds)
    workers = children_of(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    folder = tmp_path / "cache" / FORMAT.folder_name
    kept = len(Shard(folder, 0, FORMAT).read_manifest()) if (folder / "0000.parquet").exists() else 0
    assert kept < 36
    assert contents(build().waveforms.folder) == whole
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a killed build's processes must not go on"
        time.sleep(0.05)


def test_what_a_killed_builder_left_half_written_is_cleared_away(build, names):
    folder = build(names[:20]).waveforms.folder
    (folder / ".0000.parquet.4711").write_bytes(b"half a manifest")
    assert set(contents(build().waveforms.folder)) == {"0000.parquet", "0000.samples"}


def test_an_interrupted_build_keeps_what_was_done(tau, build, names, tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(building, "CLIPS_PER_BLOCK", 4)
    counted = building.decode_block

    def interrupted(root, shard, clips, row):
        if row >= 16:
            raise KeyboardInterrupt
        return counted(root, shard, clips, row)

    with monkeypatch.context() as patch:
        patch.setattr(building, "decode_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build()
    decoded.clear()
    built = build()
    assert decoded == names[16:]
    assert contents(built.waveforms.folder) == contents(build(folder="whole").waveforms.folder)


@pytest.mark.slow
def test_of_two_builders_at_once_the_second_waits_and_both_are_right(tau, build, tmp_path):
    children = [start_child(tau, tmp_path / "cache", delay=0.02) for _ in range(2)]
    assert [child.communicate()[0] for child in children] == ["done\n", "done\n"]
    assert contents(tmp_path / "cache" / FORMAT.folder_name) == contents(
        build(folder="whole").waveforms.folder
    )


def test_too_little_space_is_said_before_the_work(build, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        DataError, match=r"needs 0\.0 GB more in .*cache.*, 0\.0 GB are free there: make space, or choose"
    ):
        build()


def test_a_disk_that_becomes_full_keeps_what_was_done_and_says_so(tau, build, names, monkeypatch, decoded):
    monkeypatch.setattr(building, "CLIPS_PER_BLOCK", 4)
    write = building.write_at

    def full(file, samples, offset):
        if offset >= 20 * 128000:
            raise OSError(28, "No space left on device")
        write(file, samples, offset)

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_at", full)
        with pytest.raises(
            DataError,
            match=r"the disk of .* is full; 20 clips more than before are kept\. Make space for 0\.00 GB",
        ):
            build()
    decoded.clear()
    assert torch.equal(read_all(build()), decode_all(tau, names))
    assert decoded == names[20:]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_really_full_disk_is_told_and_nothing_half_written_is_taken(tau, names):
    """A file system of 3 MB holds 24 of the 36 clips."""
    program = textwrap.dedent(f"""
        import shutil, sys
        from pathlib import Path
        from adaptf.data.cache import build as building
        from adaptf.data.cache.waveforms import open_cache
        from adaptf.data.errors import DataError
        from adaptf.data.cache.shards import CacheFormat
        building.CLIPS_PER_BLOCK = 4
        shutil.disk_usage = lambda path: type("Usage", (), {{"free": 10**12}})
        root, cache, format = Path({str(tau)!r}), Path(sys.argv[1]), CacheFormat(32000, 32000)
        try:
            building.build_cache(root, {names!r}, cache_root=cache, format=format)
        except DataError as error:
            print(error)
        print(len(open_cache(cache, format)))
    """)
    mount = 'mkdir -p "$0" && mount -t tmpfs -o size=3m tmpfs "$0" && exec "$1" -c "$2" "$0"'
    folder = tau.parent / "small disk"
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
        str(folder),
        sys.executable,
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    message, clips = done.stdout.strip().rsplit("\n", 1)
    assert "is full; " in message, done.stderr
    assert 12 <= int(clips) <= 24
    assert f"{clips} clips more than before are kept" in message


def test_a_process_ended_from_outside_is_told(build, monkeypatch, decoded):
    def ended(*args):
        raise BrokenProcessPool("gone")

    monkeypatch.setattr(building, "decode_block", ended)
    with pytest.raises(
        DataError, match=r"was ended from outside, as the system does when memory is short; 0 clips more"
    ):
        build()


def test_a_file_replaced_while_the_cache_is_built_is_never_kept_under_its_former_content(
    tau, build, names, monkeypatch
):
    hash_files = building.hash_files

    def replaced_afterwards(*args, **kwargs):
        hashed = hash_files(*args, **kwargs)
        soundfile.write(tau / names[4], np.full(44100, 0.25), 44100)
        return hashed

    with monkeypatch.context() as patch:
        patch.setattr(building, "hash_files", replaced_afterwards)
        with pytest.raises(DataError, match=f"{names[4]} changed while the waveform cache was built: run"):
            build()
    assert torch.equal(read_all(build()), decode_all(tau, names))
