import numpy as np
import pytest

from adaptf.audio.simulated_microphones import compress, simulate_responses

RATE = 44100


def test_responses_peak_within_the_first_millisecond_and_have_energy_one():
    responses = simulate_responses(60, sample_rate=RATE, seed=3)
    assert responses.shape == (60, 1024)
    assert responses.dtype == np.float32
    assert np.abs(responses).argmax(axis=1).max() < RATE / 1000
    np.testing.assert_allclose((responses**2).sum(axis=1), 1, rtol=1e-5)


def test_responses_have_died_away_at_their_end():
    responses = simulate_responses(60, sample_rate=RATE, seed=3)
    assert (responses[:, 512:] ** 2).sum(axis=1).max() < 0.01
    assert np.abs(responses[:, -1]).max() < 1e-6


def test_responses_are_band_passes_that_differ():
    spectrum = np.abs(np.fft.rfft(simulate_responses(40, sample_rate=RATE, seed=0), 8192, axis=1))
    hz = np.fft.rfftfreq(8192, 1 / RATE)
    middle = spectrum[:, (hz > 300) & (hz < 4000)].mean(axis=1)
    assert np.all(spectrum[:, hz < 20].mean(axis=1) < middle)
    assert np.all(spectrum[:, hz > 20000].mean(axis=1) < middle / 2)
    decibels = 20 * np.log10(spectrum[:, (hz > 100) & (hz < 10000)])
    assert decibels.std(axis=0).mean() > 3


def test_the_same_seed_gives_the_same_microphones_and_another_seed_gives_others():
    first = simulate_responses(4, sample_rate=RATE, seed=1)
    np.testing.assert_array_equal(first, simulate_responses(4, sample_rate=RATE, seed=1))
    assert not np.allclose(first, simulate_responses(4, sample_rate=RATE, seed=2), atol=1e-2)


def test_a_larger_bank_starts_with_the_smaller_one():
    small, large = (simulate_responses(count, sample_rate=RATE, seed=1) for count in (3, 9))
    np.testing.assert_allclose(large[:3], small, atol=1e-6)


def test_a_microphone_sounds_the_same_at_another_rate():
    hz = np.array([200, 1000, 4000])
    magnitudes = []
    for rate in (32000, 44100):
        response = simulate_responses(1, sample_rate=rate, seed=5)[0]
        magnitude = np.abs(np.exp(-2j * np.pi * np.outer(hz, np.arange(1024)) / rate) @ response)
        magnitudes.append(20 * np.log10(magnitude / magnitude[1]))
    np.testing.assert_allclose(magnitudes[0], magnitudes[1], atol=0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"count": 0}, "count is 0"), ({"sample_rate": 0}, "sample_rate is 0")],
)
def test_bad_sizes_are_quoted(wrong, message):
    settings = {"count": 2, "sample_rate": RATE, "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        simulate_responses(settings.pop("count"), **settings)


def test_compression_lowers_what_is_over_the_threshold_by_its_ratio():
    tone = np.sqrt(2) * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    loud, quiet = tone * 10 ** (-11 / 20), tone * 10 ** (-50 / 20)
    compressed = compress(np.stack([loud, quiet]), sample_rate=RATE)
    level_db = 10 * np.log10(np.mean(compressed**2, axis=1))
    np.testing.assert_allclose(level_db, [-35 + 24 / 3, -50], atol=0.1)
