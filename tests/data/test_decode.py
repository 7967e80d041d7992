"""Decoding: the samples that libsndfile reads and soxr resamples, bit for bit, or an AudioError."""

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr

from adaptf.data.decode import AudioError, Resampler, decode, read_mono, seconds_of

RATE = 44100
WAV_SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]


def noise(*shape, seed=0):
    return np.clip(0.3 * np.random.default_rng(seed).standard_normal(shape), -1, 1)


def audio_file(samples, rate=RATE, format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return io.BytesIO(file.getvalue())


def float_reading(file):
    """(samples,) of a mono file as soundfile reads it, and the rate."""
    samples, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    return samples, rate


def reference(file, sample_rate):
    samples, rate = float_reading(file)
    return soxr.resample(samples, rate, sample_rate, quality="HQ")


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_every_wav_gives_soundfiles_values_resampled_by_soxr(subtype, rate):
    file = audio_file(noise(rate // 3), rate, subtype=subtype)
    assert np.array_equal(decode(file, sample_rate=32000), reference(file, 32000))


@pytest.mark.parametrize(
    ("format", "subtype"), [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", None)]
)
def test_compressed_files_give_soundfiles_values_too(format, subtype):
    file = audio_file(noise(20000), format=format, subtype=subtype)
    assert np.array_equal(decode(file, sample_rate=32000), reference(file, 32000))


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", subtype)
        for subtype in ("ALAW", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16")
    ]
    + [
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("W64", "FLOAT"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "ALAC_16"),
    ]
    + [("OGG", "OPUS")],
)
def test_whatever_libsndfile_knows_is_read_whole_under_any_name(tmp_path, format, subtype):
    soundfile.write(tmp_path / "x", noise(16000), 8000, format=format, subtype=subtype)
    (tmp_path / "x").rename(tmp_path / "x.wav")
    assert seconds_of(tmp_path / "x.wav") == pytest.approx(2, abs=0.1)
    audio, rate = read_mono(tmp_path / "x.wav")
    assert len(audio) / rate == seconds_of(tmp_path / "x.wav")
    assert np.abs(audio).max() > 0.3


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 10**6])
def test_a_wav_stream_whose_size_was_not_known_when_it_began_is_read_to_its_end(claimed):
    content = bytearray(audio_file(noise(1000), subtype="PCM_16").getvalue())
    content[4:8] = content[40:44] = struct.pack("<I", claimed)
    assert np.array_equal(
        read_mono(io.BytesIO(content))[0], read_mono(audio_file(noise(1000), subtype="PCM_16"))[0]
    )


def test_chunks_around_the_samples_are_no_samples():
    wav = audio_file(noise(1000), subtype="PCM_16").getvalue()
    chunk = b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4)
    odd = b"junk" + struct.pack("<I", 5) + b"abcde\0"
    for content in (wav + chunk, wav[:36] + chunk + wav[36:], wav[:36] + odd + wav[36:] + chunk):
        assert np.array_equal(read_mono(io.BytesIO(content))[0], read_mono(io.BytesIO(wav))[0])


def test_the_extremes_of_16_bit_samples_are_scaled_by_a_power_of_two():
    file = audio_file(np.array([-(2**15), -1, 0, 1, 2**15 - 1], dtype=np.int16), 32000)
    assert decode(file, sample_rate=32000).tolist() == [-1, -(2**-15), 0, 2**-15, 1 - 2**-15]


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(subtype, channels):
    file = audio_file(noise(500, channels), subtype=subtype)
    samples, rate = float_reading(file)
    audio, own_rate = read_mono(file)
    assert (audio.dtype, audio.shape, own_rate) == (np.float32, (500,), rate)
    np.testing.assert_allclose(audio, samples.mean(axis=1, dtype=np.float64), atol=1e-7)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_audio_of_the_wanted_rate_passes_untouched(subtype):
    file = audio_file(noise(1000), 32000, subtype=subtype)
    assert np.array_equal(decode(file, sample_rate=32000), float_reading(file)[0])


def test_one_resampler_gives_each_clip_what_it_would_get_alone():
    resample = Resampler(32000)
    lengths = [
        (44100, 44100),
        (48000, 7),
        (44100, 1000),
        (8000, 8000),
        (44100, 44100),
        (48000, 2),
        (22050, 1),
    ]
    for seed, (rate, samples) in enumerate(lengths):
        clip = noise(samples, seed=seed).astype(np.float32)
        assert np.array_equal(resample(clip, rate), soxr.resample(clip, rate, 32000, quality="HQ"))


def test_a_path_and_a_stream_give_the_same(tmp_path):
    file = audio_file(noise(3000))
    (tmp_path / "x.wav").write_bytes(file.getvalue())
    assert np.array_equal(decode(tmp_path / "x.wav", sample_rate=32000), decode(file, sample_rate=32000))


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, 3e38])
def test_a_float_file_with_a_sample_that_is_none_is_refused(sample):
    samples = noise(100)
    samples[50] = sample
    with pytest.raises(AudioError, match="values that are not numbers, or far beyond full scale, which is 1"):
        decode(audio_file(samples, subtype="FLOAT"), sample_rate=32000)


def test_floats_above_full_scale_are_kept():
    assert decode(
        audio_file(np.array([0.0, 1.5, -2.0]), 32000, subtype="FLOAT"), sample_rate=32000
    ).tolist() == [0, 1.5, -2]


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_file_without_samples_is_refused(format):
    with pytest.raises(AudioError, match=r"the audio has no samples|not readable as audio"):
        decode(audio_file(np.zeros(0), format=format), sample_rate=32000)


def test_fewer_samples_than_one_at_the_wanted_rate_are_refused():
    with pytest.raises(AudioError, match="1 samples at 96000 Hz are less than one at 32000 Hz"):
        decode(audio_file(noise(1), 96000), sample_rate=32000)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is text\n" * 50])
def test_what_is_no_audio_is_refused_with_libsndfiles_words(tmp_path, content):
    (tmp_path / "x.wav").write_bytes(content)
    for read in (read_mono, seconds_of):
        with pytest.raises(AudioError, match=r"not readable as audio \(.+\); WAV, FLAC.* are"):
            read(tmp_path / "x.wav")


def with_rate(wav, rate):
    content = bytearray(wav.getvalue())
    content[24:28] = struct.pack("<I", rate)
    return bytes(content)


def flac_with_length(samples, claimed):
    """A FLAC file whose header claims other samples than it holds: 36 bits from the middle of byte 21 on."""
    content = bytearray(audio_file(samples, format="FLAC").getvalue())
    content[21] = content[21] & 0xF0 | claimed >> 32
    content[22:26] = struct.pack(">I", claimed & 0xFFFFFFFF)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            with_rate(audio_file(noise(100)), 3),
            "its header claims 3 samples a second, 1000 to 768000 are expected",
        ),
        (with_rate(audio_file(noise(100)), 2**31 - 1), "its header claims 2147483647 samples a second"),
        (flac_with_length(noise(100), 2**36 - 1), "its header claims 433 hours: cut it into shorter files"),
        (flac_with_length(noise(100), 0), "its header does not say how long it is, as in a stream"),
    ],
)
def test_a_header_that_claims_what_cannot_be_is_refused(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    for read in (read_mono, seconds_of):
        with pytest.raises(AudioError, match=message):
            read(tmp_path / "x")


def test_a_flac_file_that_claims_more_than_it_holds_is_refused():
    with pytest.raises(AudioError, match="not readable as audio"):
        read_mono(io.BytesIO(flac_with_length(noise(100), 3600 * RATE)))


def test_of_a_cut_off_wav_file_the_samples_that_are_left_are_read():
    whole = audio_file(noise(1000), subtype="PCM_16")
    audio, _ = read_mono(io.BytesIO(whole.getvalue()[: 44 + 2 * 700 + 1]))
    assert np.array_equal(audio, float_reading(whole)[0][:700])


@pytest.mark.parametrize("samples", [1, 22050, 44100, 158760])
def test_the_length_of_a_file_is_known_from_its_header(tmp_path, samples):
    soundfile.write(tmp_path / "x.wav", np.zeros(samples), RATE)
    assert seconds_of(tmp_path / "x.wav") == samples / RATE


@pytest.mark.parametrize("name", ["x.wav", "x.raw"])
def test_a_file_that_is_not_there_is_no_audio(tmp_path, name):
    with pytest.raises(AudioError, match=r"it can't be read \(No such file or directory\)"):
        seconds_of(tmp_path / name)
