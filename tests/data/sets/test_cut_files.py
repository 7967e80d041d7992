"""Own data of any length, from the CSV file to the cached clips."""

import logging

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.decode import decode, seconds_of
from adaptf.data.errors import DataError
from adaptf.data.sets import cut_files as cut_files_module
from adaptf.data.sets.cut_files import cut_files
from adaptf.data.sets.read_clips import audio_root, read_clips

FORMAT = CacheFormat(sample_rate=32000, clip_samples=32000)


def write_audio(path, seconds, rate=44100, channels=1, subtype="PCM_16", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype=subtype)


def table_of(names):
    return pd.DataFrame(
        {
            "filename": names,
            "scene": "bus",
            "device": "phone",
            "location": names,
            "city": "",
            "split": "train",
        }
    )


def cut(root, names, clip_seconds=1.0):
    table, notes = cut_files(table_of(names), root, clip_seconds=clip_seconds, workers=2)
    return list(table["filename"]), notes


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize(
    ("seconds", "clips"),
    [
        (3.6, ["x.wav#t=0", "x.wav#t=1", "x.wav#t=2", "x.wav#t=3"]),
        (3.5, ["x.wav#t=0", "x.wav#t=1", "x.wav#t=2", "x.wav#t=3"]),
        (3.4, ["x.wav#t=0", "x.wav#t=1", "x.wav#t=2"]),
        (1.4, ["x.wav"]),
        (1.0, ["x.wav"]),
        (0.3, ["x.wav"]),
    ],
)
def test_a_file_gives_as_many_clips_as_it_fills_to_the_half(tmp_path, seconds, clips, rate):
    write_audio(tmp_path / "x.wav", seconds, rate)
    assert cut(tmp_path, ["x.wav"])[0] == clips


def test_clips_may_have_another_length(tmp_path):
    write_audio(tmp_path / "x.wav", 25)
    assert cut(tmp_path, ["x.wav"], clip_seconds=10.0)[0] == ["x.wav#t=0", "x.wav#t=1", "x.wav#t=2"]


def test_notes_say_what_was_done(tmp_path):
    for name, seconds in (("a.wav", 3.6), ("b.wav", 2.4), ("c.wav", 0.3), ("d.wav", 1.0)):
        write_audio(tmp_path / name, seconds)
    assert cut(tmp_path, ["a.wav", "b.wav", "c.wav", "d.wav"])[1] == [
        "longer files were cut into 6 clips of 1 s: 2 files",
        "rests of less than half a clip were dropped: 0.4 s in all",
        "longer rests were padded with zeros at the end: 0.4 s in all",
        "files shorter than 1 s were padded with zeros at the end: 1 files",
    ]


def test_files_of_one_clip_each_need_no_note(tmp_path):
    write_audio(tmp_path / "x.wav", 1.0)
    assert cut(tmp_path, ["x.wav"]) == (["x.wav"], [])


def test_missing_and_unreadable_files_are_listed(tmp_path):
    write_audio(tmp_path / "good.wav", 1.0)
    (tmp_path / "broken.wav").write_text("not audio")
    (tmp_path / "folder.wav").mkdir()
    too_long, null = "x" * 300, "x\0.wav"
    names = ["good.wav", "broken.wav", "absent.wav", "folder.wav", too_long, null, "good.wav/x.wav"]
    with pytest.raises(DataError, match="6 problems in ") as error:
        cut(tmp_path, names)
    assert "  broken.wav: not readable as audio (Format not recognised)" in str(error.value)
    assert "  folder.wav: it is a folder, not a file" in str(error.value)
    for name in (one for one in names[2:] if one != "folder.wav"):
        assert f"  {name}: the file is missing" in str(error.value)


def test_a_header_without_a_length_is_a_problem_of_its_file(tmp_path):
    write_audio(tmp_path / "x.flac", 1.0)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    content[21], content[22:26] = content[21] & 0xF0, bytes(4)
    (tmp_path / "x.flac").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.flac: its header does not say how long it is"):
        cut(tmp_path, ["x.flac"])


@pytest.fixture
def own_data(tmp_path):
    """Files of all lengths, rates and kinds from five places of each scene;
    names, scenes and devices of all sorts."""
    rows = []
    for scene in ("métro ligne 4", "公园", "bus"):
        for place in range(5):
            device = ("my phone", "Gerät ß", "録音機")[place % 3]
            name = f"{scene}/take {place}, {device}.{'flac' if place == 3 else 'wav'}"
            rate, channels, seconds = (
                (8000, 44100, 48000, 96000, 32000)[place],
                1 + place % 2,
                (3.6, 2.4, 0.3, 1.0, 2.0)[place],
            )
            write_audio(tmp_path / name, seconds, rate, channels, seed=len(rows))
            rows.append((name, scene, device, f"{scene} {place}"))
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(
        tmp_path / "clips.csv", index=False
    )
    return tmp_path / "clips.csv"


def read_own_data(own_data):
    clips = read_clips(own_data, validation_share=0.2, test_share=0.2, seed=0)
    table, _ = cut_files(clips.table, audio_root(own_data), clip_seconds=1.0, workers=2)
    return clips, table


def test_all_parts_of_a_file_keep_what_is_known_of_it(own_data):
    clips, table = read_own_data(own_data)
    assert clips.scenes == ("bus", "métro ligne 4", "公园")
    assert set(table["device"]) == {"my phone", "Gerät ß", "録音機"}
    assert len(table) == 3 * (4 + 2 + 1 + 1 + 2)
    whole = table.assign(filename=table["filename"].str.partition("#t=")[0]).drop_duplicates(
        ignore_index=True
    )
    pd.testing.assert_frame_equal(whole, clips.table)


def test_parts_of_a_file_are_on_one_side_of_each_cut_even_without_locations(own_data, caplog):
    table = pd.read_csv(own_data)
    table.drop(columns="location").to_csv(own_data, index=False)
    with caplog.at_level(logging.WARNING):
        _, table = read_own_data(own_data)
    assert "has no column 'location'" in caplog.text
    files = table["filename"].str.partition("#t=")[0]
    assert set(table["split"]) == {"train", "validation", "test"}
    assert (table["split"].groupby(files).nunique() == 1).all()


def test_each_cached_clip_is_its_second_of_the_file(own_data, tmp_path):
    _, table = read_own_data(own_data)
    names = list(table["filename"])
    built = build_cache(own_data.parent, names, cache_root=tmp_path / "cache", format=FORMAT)
    assert not built.clips["problem"].any()
    cached = built.waveforms.read(built.waveforms.rows_of(list(built.clips["key"])))
    for name, clip, left in zip(names, cached, built.clips["samples"], strict=True):
        file, _, part = name.partition("#t=")
        audio = decode(own_data.parent / file, sample_rate=32000)[32000 * int(part or 0) :]
        assert left == len(audio)
        assert torch.equal(clip, torch.from_numpy(np.pad(audio, (0, max(0, 32000 - len(audio))))[:32000]))


def test_a_file_that_ends_before_its_header_says_lacks_only_its_last_clips(tmp_path):
    """As with a file whose copying was cut off after its clip table was made."""
    write_audio(tmp_path / "x.wav", 3.0)
    names, _ = cut(tmp_path, ["x.wav"])
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(content[: 44 + 2 * 50000])
    built = build_cache(tmp_path, names, cache_root=tmp_path / "cache", format=FORMAT)
    assert list(built.clips["problem"]) == ["", "", "it ends before 2 s"]


def test_a_file_is_cut_by_its_decoded_length_whatever_its_header_says(tmp_path):
    write_audio(tmp_path / "a.mp3", 3.0, subtype=None)
    write_audio(tmp_path / "b.ogg", 2.0, subtype="VORBIS")
    a, b = (tmp_path / "a.mp3").read_bytes(), (tmp_path / "b.ogg").read_bytes()
    (tmp_path / "joined.mp3").write_bytes(a + a)
    (tmp_path / "joined.ogg").write_bytes(b + b)
    without_a_count = a[a.index(a[:2], 160) :]
    (tmp_path / "cover.mp3").write_bytes(b"ID3\x03\0\0\0\x09\x00\x00" + bytes(9 << 14) + without_a_count)
    files = {"a.mp3": 3, "joined.mp3": 6, "joined.ogg": 4, "cover.mp3": 3}
    names, _ = cut(tmp_path, list(files))
    assert {file: sum(name.startswith(file) for name in names) for file in files} == files
    built = build_cache(tmp_path, names, cache_root=tmp_path / "cache", format=FORMAT)
    assert not built.clips["problem"].any()
    assert (built.clips["rms"] > 0.09).all()


def test_a_file_that_has_to_be_decoded_is_measured_once(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.mp3", 2.0, subtype=None)
    measured = []
    monkeypatch.setattr(
        cut_files_module, "seconds_of", lambda path: measured.append(path.name) or seconds_of(path)
    )
    assert len(cut(tmp_path, ["a.mp3"])[0]) == len(cut(tmp_path, ["a.mp3"])[0]) == 2
    assert measured == ["a.mp3"]
    write_audio(tmp_path / "a.mp3", 3.0, subtype=None)
    assert len(cut(tmp_path, ["a.mp3"])[0]) == 3


def test_marks_of_parts_in_a_table_are_refused(tmp_path):
    (tmp_path / "clips.csv").write_text("filename,scene,device\nx.wav#t=3,bus,phone\ny.wav,park,phone\n")
    with pytest.raises(
        DataError, match=r"row 2, x\.wav#t=3 .*file names must not hold '#t=', which marks parts of files"
    ):
        read_clips(tmp_path / "clips.csv", validation_share=0.2, test_share=0.2, seed=0)
