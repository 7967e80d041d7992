"""Damaged audio and teachers' logits: an error that says what is wrong, or the right data."""

import io
import shutil

import numpy as np
import pytest
import soundfile
from fixtures.fuzz import FORMAT, KINDS, audio_bytes, damaged, decoded, file_with, folder, fuzz
from hypothesis import given
from hypothesis import strategies as st

from adaptf.data.decode import AudioError, Resampler, read_mono, seconds_of
from adaptf.data.errors import DataError
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits, write_teacher_logits

pytestmark = pytest.mark.slow


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
