"""Damaged and random input to the data layer gives an error that says what is wrong,
or the right data: nothing else.

`FUZZ=100 pytest tests/data/test_fuzz.py` tries a hundred times as many examples, others each time.
"""

import csv
import io
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.cache.waveforms import open_cache
from adaptf.data.decode import AudioError, Resampler, decode, read_mono, seconds_of
from adaptf.data.errors import DataError
from adaptf.data.sets.files_to_predict import read_files_to_predict
from adaptf.data.sets.read_clips import read_clips
from adaptf.data.tables import SEPARATORS, read_strings
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits, write_teacher_logits
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES
from adaptf.names import tidy, tidy_file_name

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("FUZZ", "1"))
FORMAT = CacheFormat(sample_rate=32000, clip_samples=1200)
KINDS = [
    "WAV PCM_16 1",
    "WAV PCM_16 2",
    "WAV PCM_24 1",
    "WAV FLOAT 2",
    "FLAC PCM_16 1",
    "FLAC PCM_24 2",
    "OGG VORBIS 1",
]


def fuzz(examples):
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def audio_bytes(kind, seed=0):
    """2000 samples of noise, such as 'WAV PCM_16 1' with one channel."""
    format, subtype, channels = kind.split()
    samples = np.clip(0.2 * np.random.default_rng(seed).standard_normal((2000, int(channels))), -1, 1)
    file = io.BytesIO()
    soundfile.write(file, samples, 44100, format=format, subtype=subtype)
    return file.getvalue()


@st.composite
def damaged(draw, content):
    """The content cut off, with bits flipped, with bytes overwritten, or random bytes in its place."""
    place = st.integers(0, len(content) - 1) | st.integers(
        0, min(len(content), 100) - 1
    )  # headers more often
    match draw(st.sampled_from(["cut off", "flipped", "overwritten", "random"])):
        case "cut off":
            return content[: draw(place)]
        case "flipped":
            changed = bytearray(content)
            for at, bit in draw(st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4)):
                changed[at] ^= 1 << bit
            return bytes(changed)
        case "overwritten":
            at, new = draw(place), draw(st.binary(min_size=1, max_size=8))
            return content[:at] + new + content[at + len(new) :]
    return draw(st.binary(max_size=200))


@contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def file_with(content, name="x"):
    with folder() as parent:
        (parent / name).write_bytes(content)
        yield parent / name


def decoded(path):
    """The clip, or None with an error that says why."""
    try:
        return decode(path, sample_rate=FORMAT.sample_rate)
    except AudioError as error:
        assert str(error)
        return None


@pytest.mark.parametrize("kind", KINDS)
@fuzz(50)
@given(data=st.data())
def test_damaged_audio_gives_what_libsndfile_reads_or_an_audio_error(kind, data):
    with file_with(data.draw(damaged(audio_bytes(kind)))) as path:
        try:
            audio, rate = read_mono(path)
        except AudioError as error:
            assert str(error)
            assert decoded(path) is None
            return
        samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == own_rate
        assert np.isfinite(audio).all()
        assert np.array_equal(audio, samples.mean(axis=1, dtype=np.float32))
        assert seconds_of(path) >= len(audio) / rate
        waveform = decoded(path)
        if waveform is None:
            assert len(audio) * FORMAT.sample_rate < rate
        else:
            assert (waveform.dtype, waveform.ndim) == (np.float32, 1)
            assert np.isfinite(waveform).all()
            assert abs(len(waveform) - len(audio) * FORMAT.sample_rate / rate) < 1


@fuzz(100)
@given(data=st.data())
def test_a_damaged_mp3_gives_numbers_or_an_audio_error(data):
    with file_with(data.draw(damaged(audio_bytes("MP3 MPEG_LAYER_III 1")))) as path:
        try:
            audio, rate = read_mono(path)
        except AudioError as error:
            assert str(error)
            return
        assert len(audio) == round(seconds_of(path) * rate)
        assert np.isfinite(audio).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("WAV")])
@fuzz(20)
@given(data=st.data())
def test_of_a_wav_file_that_was_cut_off_the_first_samples_are_left(kind, data):
    whole = audio_bytes(kind)
    samples, _ = read_mono(io.BytesIO(whole))
    header_bytes = whole.index(b"data") + 8
    left = data.draw(st.integers(0, len(whole) - header_bytes))
    rows = left * len(samples) // (len(whole) - header_bytes)
    content = whole[: header_bytes + left]
    if rows:
        assert np.array_equal(read_mono(io.BytesIO(content))[0], samples[:rows])
    else:
        with pytest.raises(AudioError, match="the audio has no samples"):
            read_mono(io.BytesIO(content))


@fuzz(30)
@given(
    lengths=st.lists(
        st.tuples(st.sampled_from([8000, 22050, 44100, 48000, 44101]), st.integers(2, 3000)), max_size=4
    )
)
def test_a_resampler_forgets_the_clip_before(lengths):
    resample = Resampler(32000)
    for seed, (rate, samples) in enumerate(lengths):
        clip = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
        assert np.array_equal(resample(clip, rate), Resampler(32000)(clip, rate))


@fuzz(25)
@given(data=st.data())
def test_a_cache_of_damaged_files_has_the_problem_or_the_samples_of_each(data):
    """Each file is asked for twice: from its start, and from its second clip on, before which it may end."""
    with folder() as root:
        contents = {"whole.wav": audio_bytes(KINDS[0], seed=1)}
        for number, kind in enumerate(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))):
            contents[f"{number}.wav"] = data.draw(damaged(audio_bytes(kind)))
        order = data.draw(st.permutations(list(contents)))
        for name, content in contents.items():
            (root / name).write_bytes(content)
        names = [clip for name in order for clip in (name, f"{name}#t=1")]
        built = build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1)
        for name, row in zip(names, built.clips.itertuples(), strict=True):
            file, _, part = name.partition("#t=")
            waveform = decoded(root / file)
            expected = np.zeros(0) if waveform is None else waveform[FORMAT.clip_samples * int(part or 0) :]
            assert bool(row.problem) == (len(expected) == 0)
            if not row.problem:
                assert row.samples == len(expected)
                assert_same_clip(built.waveforms, row.key, expected)


@fuzz(50)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["x" * 300, "a.wav/b", "/"])
)
def test_names_that_no_file_has_are_missing_files(name):
    with (
        file_with(b"", "a.wav") as path,
        pytest.raises(DataError, match=r"the file is missing|it is a folder, not a file"),
    ):
        build_cache(path.parent, ["a.wav", name], cache_root=path.parent / "cache", format=FORMAT, workers=1)


def assert_same_clip(waveforms, key, expected):
    clip = waveforms.read(waveforms.rows_of([key]))[0].numpy()
    padded = np.pad(expected[: FORMAT.clip_samples], (0, max(0, FORMAT.clip_samples - len(expected))))
    assert np.array_equal(clip, padded)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set of ten files, one of them no audio, and its cache."""
    root = tmp_path_factory.mktemp("built")
    names = [f"{number}.wav" for number in range(10)]
    for number, name in enumerate(names):
        (root / name).write_bytes(b"no audio" if number == 4 else audio_bytes(KINDS[0], seed=number))
    build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1)
    return root, names


def assert_right(built, waveforms, keys):
    """Every clip is that of its file."""
    root, names = built
    for name, key in zip(names, keys, strict=True):
        if (expected := decoded(root / name)) is not None:
            assert_same_clip(waveforms, key, expected)


@contextmanager
def cache_with(built, file, content):
    """A copy of the cache in which a file has another content."""
    root, _ = built
    with folder() as copy:
        shutil.copytree(root / "cache", copy, dirs_exist_ok=True)
        (copy / file).write_bytes(content)
        yield copy


def assert_says_what_to_do(error):
    assert "0000.samples" in str(error)
    assert "Delete the folder" in str(error)
    assert "run `prepare` again" in str(error)


@pytest.mark.parametrize("file", ["0000.parquet", "0000.samples"])
@fuzz(60)
@given(data=st.data())
def test_a_damaged_shard_is_refused_by_the_builder_or_right(built, file, data):
    root, names = built
    path = f"{FORMAT.folder_name}/{file}"
    with cache_with(built, path, data.draw(damaged((root / "cache" / path).read_bytes()))) as cache:
        try:
            again = build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
        except DataError as error:
            assert_says_what_to_do(error)
        else:
            assert [bool(problem) for problem in again.clips["problem"]] == [
                number == 4 for number in range(10)
            ]
            assert_right(built, again.waveforms, again.clips["key"])


@fuzz(100)
@given(data=st.data())
def test_a_flipped_bit_among_the_samples_is_found(built, data):
    root, names = built
    path = f"{FORMAT.folder_name}/0000.samples"
    content = bytearray((root / "cache" / path).read_bytes())
    row = data.draw(st.integers(0, 9).filter(lambda row: row != 4))
    content[row * FORMAT.row_bytes + data.draw(st.integers(0, FORMAT.row_bytes - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    with (
        cache_with(built, path, bytes(content)) as cache,
        pytest.raises(DataError, match=f"the samples of row {row} ") as error,
    ):
        build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
    assert_says_what_to_do(error.value)


@fuzz(60)
@given(data=st.data())
def test_a_damaged_manifest_is_refused_by_readers_or_right(built, data):
    root, names = built
    keys = build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1).clips["key"]
    path = f"{FORMAT.folder_name}/0000.parquet"
    with cache_with(built, path, data.draw(damaged((root / "cache" / path).read_bytes()))) as cache:
        try:
            waveforms = open_cache(cache, FORMAT)
        except DataError as error:
            assert_says_what_to_do(error)
        else:
            assert_right(built, waveforms, keys)


@fuzz(40)
@given(data=st.data())
def test_a_damaged_memory_of_hashes_costs_time_at_most(built, data):
    root, names = built
    with cache_with(
        built, "files.parquet", data.draw(damaged((root / "cache/files.parquet").read_bytes()))
    ) as cache:
        again = build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
        assert_right(built, again.waveforms, again.clips["key"])


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["NA", "nan", "1e5", "007", "a,b", '"', "'"]
)


@fuzz(150)
@given(rows=st.lists(st.tuples(cells, cells, cells), max_size=5), separator=st.sampled_from([",", ";", "\t"]))
def test_a_table_comes_back_as_it_was_written(rows, separator):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *rows])
    with file_with(text.getvalue().encode()) as path:
        table = read_strings(path, ["a", "b"])
    tidied = [[tidy(cell) for cell in row] for row in rows]
    assert table.to_numpy().tolist() == [row for row in tidied if any(row)]


HEADERS = ["filename,scene,device\n", "filename\tdevice_id\n", "filename,device\n"]
WORDS = [
    "filename",
    "scene",
    "device",
    "split",
    "a.wav",
    "b.wav",
    "bus",
    "park",
    "train",
    "NA",
    "1",
    " ",
    "é",
    "公",
    "x" * 300,
]
MARKS = [",", ",", "\t", ";", '"', "'", "\\", "#t=", "\n", "\n", "\r\n", "\r", "\ufeff", "\0", "\x1a"]
words_and_marks = st.lists(st.sampled_from(WORDS) | st.sampled_from(MARKS), max_size=40).map("".join)
random_text = st.builds("".join, st.tuples(st.sampled_from(["", *HEADERS]), words_and_marks)).map(str.encode)
OWN_CSV = "filename,scene,device,location,city,split\n" + "".join(
    f'"hall {number}.wav",{("bus", "park")[number % 2]},phone,place '
    f"{number},Oslo,{('train', 'test')[number // 4]}\n"
    for number in range(6)
)


def rows_by_csv_module(content, wanted):
    """Tidied cells by name as Python's reader finds them, without empty lines."""
    text = content.decode("utf-8-sig")
    readings = [
        list(csv.reader(io.StringIO(text, newline=""), delimiter=one, skipinitialspace=True))
        for one in SEPARATORS
    ]
    named, *rows = max(
        (filled(lines) for lines in readings),
        key=lambda lines: len({tidy(name) for name in lines[0]} & wanted),
    )
    names = [tidy(name) for name in named]
    cells = [dict(zip(names, row + [""] * (len(names) - len(row)), strict=True)) for row in rows]
    return [
        {name: tidy_file_name(cell) if name == "filename" else tidy(cell) for name, cell in row.items()}
        for row in cells
    ]


def filled(rows):
    """Rows that hold something; of the others readers differ in what an empty line is."""
    return [list(row) for row in rows if tidy("".join(row))]


def has_lone_carriage_returns(content):
    """They end a line for some readers only."""
    return b"\r" in content.replace(b"\r\n", b"\n")


@fuzz(150)
@given(content=damaged(OWN_CSV.encode()) | random_text)
@example(b"filename,scene,device\nx.wav,bus,phone,\ny.wav,park,phone,\n")
@example(b"filename,scene,device, scene\nx.wav,bus,phone,park\n")
def test_own_data_by_a_damaged_table_is_refused_or_right(content):
    with file_with(content, "clips.csv") as path:
        try:
            clips = read_clips(path, validation_share=0.2, test_share=0.2, seed=0)
        except DataError as error:
            assert "clips.csv" in str(error)
            return
    if not has_lone_carriage_returns(content):
        columns = ["filename", "scene", "device"]
        expected = rows_by_csv_module(content, set(columns))
        assert clips.table[columns].to_numpy().tolist() == [
            [row[name] for name in columns] for row in expected
        ]
        assert set(clips.scenes) == {row["scene"] for row in expected}


@pytest.fixture(scope="module")
def tau_tables(tmp_path_factory):
    """The tables of a folder in TAU's layout."""
    root = tmp_path_factory.mktemp("tau")
    (root / "evaluation_setup").mkdir()
    names = [
        (f"audio/{scene}-paris-{place}-0-0-a.wav", scene, place)
        for scene in ("airport", "bus")
        for place in range(4)
    ]
    meta = [f"{name}\t{scene}\tparis-{scene}-{place}\ta" for name, scene, place in names]
    tables = {
        "meta.csv": ["filename\tscene_label\tidentifier\tsource_label", *meta],
        "evaluation_setup/fold1_train.csv": [
            "filename\tscene_label",
            *[f"{name}\t{scene}" for name, scene, _ in names[:6]],
        ],
        "evaluation_setup/fold1_evaluate.csv": [
            "filename\tscene_label",
            *[f"{name}\t{scene}" for name, scene, _ in names[6:]],
        ],
    }
    for table, lines in tables.items():
        (root / table).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "damaged_table", ["meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"]
)
@fuzz(50)
@given(data=st.data())
def test_a_tau_folder_with_a_damaged_table_is_refused_or_right(tau_tables, damaged_table, data):
    with folder() as root:
        shutil.copytree(tau_tables, root, dirs_exist_ok=True)
        content = data.draw(damaged((root / damaged_table).read_bytes()) | random_text)
        (root / damaged_table).write_bytes(content)
        try:
            table = read_clips(root, scenes=TAU_SCENES, validation_share=0.2, test_share=0.2, seed=0).table
        except DataError as error:
            assert str(root) in str(error)
            return
        meta = (root / "meta.csv").read_bytes()
    if not has_lone_carriage_returns(meta):
        columns = ["filename", "scene_label", "source_label", "identifier"]
        known = {tuple(row[name] for name in columns) for row in rows_by_csv_module(meta, set(columns))}
        assert (
            set(table[["filename", "scene", "device", "location"]].itertuples(index=False, name=None))
            <= known
        )


@fuzz(100)
@given(
    content=damaged("filename\tdevice_id\naudio/é 0.wav\ta\naudio/1.wav\tunknown\n".encode()) | random_text
)
@example(b"filename\tdevice\tdevice_id\nx.wav\ta\tb\n")
def test_a_damaged_evaluation_list_is_refused_or_right(content):
    with folder() as root:
        (root / "evaluation_setup").mkdir()
        (root / "evaluation_setup/test.csv").write_bytes(content)
        try:
            table, _ = read_files_to_predict(root)
        except DataError as error:
            assert str(root) in str(error)
            return
    if not has_lone_carriage_returns(content):
        expected = rows_by_csv_module(content, {"filename"})
        rows = [(row["filename"], row.get("device", row.get("device_id", ""))) for row in expected]
        assert filled(table.to_numpy()) == filled(rows)


@pytest.fixture(scope="module")
def teacher_logits(tmp_path_factory):
    """The files of a small table."""
    folder = tmp_path_factory.mktemp("logits")
    logits = np.float32([[0.25, -1e-7], [-3.5, 1e3]])
    write_teacher_logits(folder, TeacherLogits(("a.wav", "b.wav"), ("bus", "park"), logits, "17", "d1"))
    return folder


@fuzz(100)
@given(data=st.data())
def test_damaged_teacher_logits_are_refused_or_right(teacher_logits, data):
    content = (teacher_logits / "logits.parquet").read_bytes()
    with folder() as copy:
        shutil.copytree(teacher_logits, copy, dirs_exist_ok=True)
        (copy / "logits.parquet").write_bytes(data.draw(damaged(content)))
        try:
            teacher = read_teacher_logits(copy)
        except DataError as error:
            assert str(copy) in str(error)
            return
    assert np.array_equal(teacher.logits, read_teacher_logits(teacher_logits).logits)
    assert teacher.filenames == ("a.wav", "b.wav")
