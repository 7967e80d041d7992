"""Synthesised sound events and scenes of the demo data: many clips at once, by a seeded generator.

Every sound is a function `Clips -> (clips, samples)` built from a few primitives: filtered noise, tones,
strikes, gates and slow curves.
A scene is a recipe of the same sounds, so what is learnt about events helps with scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.fft import irfft, rfft

_TABLE_SAMPLES = 1024
_PURE = np.ones((1, 1))
# First three formants in Hz of six imagined vowels.
_VOWELS_HZ = np.array(
    [
        [750, 1150, 2500],
        [300, 2200, 2900],
        [320, 850, 2300],
        [520, 1800, 2500],
        [560, 900, 2450],
        [450, 1400, 2300],
    ]
)


@dataclass(frozen=True)
class Clips:
    """A batch of clips to be filled with sound. Clips of the same place draw similar values."""

    rng: np.random.Generator
    place: np.ndarray
    """Index of the place of every clip, (clips,)."""
    samples: int
    sample_rate: int
    variation: float = 0.3
    """How far the clips of one place differ from each other:
    0 not at all, 1 as much as clips of different places."""

    def __len__(self) -> int:
        return len(self.place)

    @cached_property
    def seconds(self) -> np.ndarray:
        """Time of every sample, (samples,)."""
        return (np.arange(self.samples) / self.sample_rate).astype(np.float32)

    @cached_property
    def hz(self) -> np.ndarray:
        """Frequency of every bin, (samples // 2 + 1,);
        the bin at 0 counts as 1 Hz, so that it can be divided by."""
        return np.maximum(np.fft.rfftfreq(self.samples, 1 / self.sample_rate), 1).astype(np.float32)

    def only(self, chosen: np.ndarray) -> "Clips":
        """The clips where `chosen` (clips,) is true."""
        return replace(self, place=self.place[chosen])

    def uniform(self, low: float, high: float) -> np.ndarray:
        """A value per clip, (clips, 1)."""
        of_place = self.rng.random(self.place.max() + 1)[self.place]
        of_clip = self.rng.random(len(self))
        mixed = (1 - self.variation) * of_place + self.variation * of_clip
        return (low + (high - low) * mixed[:, None]).astype(np.float32)

    def log_uniform(self, low: float, high: float) -> np.ndarray:
        """A positive value per clip, (clips, 1), uniform in its logarithm."""
        return np.exp(self.uniform(np.log(low), np.log(high)))

    def curve(self, low: float, high: float, *, per_second: float) -> np.ndarray:
        """A random curve per clip, (clips, samples): straight lines between `per_second` knots."""
        position = self.seconds * np.float32(per_second)
        left = position.astype(np.int64)
        between = position - left.astype(np.float32)
        knots = self.rng.uniform(low, high, (len(self), left[-1] + 2)).astype(np.float32)
        return np.take(knots, left, axis=1) + between * np.take(np.diff(knots), left, axis=1)

    def noise(self, gain: np.ndarray) -> np.ndarray:
        """Noise (clips, samples) with the magnitudes `gain`, (bins,) or (clips, bins)."""
        spectrum = self.rng.standard_normal((len(self), 2 * len(self.hz)), dtype=np.float32).view(
            np.complex64
        )
        return irfft(spectrum * gain, self.samples, axis=1)

    def filter(self, signal: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """`signal` (clips, samples) times `gain` (clips, bins) in the spectrum;
        what rings on returns at the start."""
        return irfft(rfft(signal, axis=1) * gain, self.samples, axis=1)

    def tone(self, hz: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
        """A tone (clips, samples):
        its `hz` (clips, 1) or (clips, samples), its amplitudes (clips or 1, harmonics)."""
        table = _wave_table(np.broadcast_to(harmonics, (len(self), harmonics.shape[1])))
        return _look_up(table, self.phase(hz))

    def strikes(self, per_second: np.ndarray, *, irregular: float) -> np.ndarray:
        """Single samples (clips, samples) of random strength,
        about `per_second` (clips, 1) of them in a second."""
        count = int(per_second.max() * self.seconds[-1]) + 2
        regular = np.arange(count) - 1 + self.rng.random((len(self), 1))
        beat = regular + irregular * self.rng.standard_normal((len(self), count))
        at = np.round(beat / per_second * self.sample_rate).astype(np.int64)
        strength = self.rng.uniform(0.3, 1.0, at.shape) * ((at >= 0) & (at < self.samples))
        struck = np.zeros((len(self), self.samples), np.float32)
        np.add.at(struck, (np.arange(len(self))[:, None], at.clip(0, self.samples - 1)), strength)
        return struck

    def gate(self, per_second: np.ndarray, *, share: np.ndarray) -> np.ndarray:
        """Smooth pulses 0..1 (clips, samples):
        `per_second` (clips, 1), each a `share` (clips, 1) of its period."""
        phase = (self.seconds * per_second + self.rng.random((len(self), 1), dtype=np.float32)) % 1
        return np.clip(4 * np.sin(np.pi * np.minimum(phase / share, 1)), 0, 1)

    def once(self, rise_seconds: np.ndarray, fall_seconds: np.ndarray) -> np.ndarray:
        """One swell 0..1 (clips, samples) at a random time: it rises and falls exponentially."""
        start = self.rng.uniform(0, 0.8, (len(self), 1)).astype(np.float32) * self.seconds[-1]
        since = self.seconds - start
        return np.exp(np.where(since < 0, since / rise_seconds, -since / fall_seconds))

    def phase(self, hz: np.ndarray) -> np.ndarray:
        """Phase in periods (clips, samples), with a random start, for a look-up in a wave table."""
        step = np.broadcast_to(hz / self.sample_rate, (len(self), self.samples))
        return np.cumsum(step, axis=1, dtype=np.float64) + self.rng.random((len(self), 1))


def _wave_table(harmonics: np.ndarray) -> np.ndarray:
    """One period (..., _TABLE_SAMPLES) of the amplitudes (..., harmonics),
    their phases spread to keep peaks low."""
    order = np.arange(1, harmonics.shape[-1] + 1)
    spectrum = np.zeros((*harmonics.shape[:-1], _TABLE_SAMPLES // 2 + 1), np.complex64)
    spectrum[..., 1 : len(order) + 1] = harmonics * np.exp(1j * order**2)
    return irfft(spectrum, _TABLE_SAMPLES, axis=-1) * _TABLE_SAMPLES


def _look_up(table: np.ndarray, phase: np.ndarray, row: np.ndarray | int = 0) -> np.ndarray:
    """Values of a `row` of `table` (clips, [rows,] _TABLE_SAMPLES) at `phase` in periods (clips, samples)."""
    tables = table.reshape(len(table), -1, _TABLE_SAMPLES)
    first = np.arange(len(table))[:, None] * tables.shape[1] + row
    column = (phase * _TABLE_SAMPLES).astype(np.int64) & (_TABLE_SAMPLES - 1)
    return tables.reshape(-1)[first * _TABLE_SAMPLES + column]


def _falling(clips: Clips, count: int, slope: np.ndarray) -> np.ndarray:
    """Amplitudes (clips, count) of harmonics that fall with `slope` (clips, 1), unevenly."""
    return clips.rng.uniform(0.3, 1, (len(clips), count)) / np.arange(1, count + 1) ** slope


def band(
    hz: np.ndarray, low_hz: np.ndarray | float, high_hz: np.ndarray | float, order: int = 2
) -> np.ndarray:
    """Magnitudes of a band-pass with flanks of `order` times 6 dB per octave."""
    return 1 / np.sqrt((1 + (low_hz / hz) ** (2 * order)) * (1 + (hz / high_hz) ** (2 * order)))


def _ringing(hz: np.ndarray, center_hz: np.ndarray, decay_seconds: np.ndarray) -> np.ndarray:
    """Complex spectrum of a sine at `center_hz` that starts at once and dies away,
    all of about the same energy."""
    damping = 1 / decay_seconds
    sine = center_hz / ((damping + 2j * np.pi * hz) ** 2 + (2 * np.pi * center_hz) ** 2)
    return (sine * np.sqrt(damping)).astype(np.complex64)


def _modes(clips: Clips, count: int, low_hz: float, high_hz: float, short: float, long: float) -> np.ndarray:
    """Spectrum (clips, bins) of a body with `count` modes that ring for `short` to `long` seconds."""
    body = np.zeros((len(clips), len(clips.hz)), np.complex64)
    for _ in range(count):
        mode = _ringing(clips.hz, clips.log_uniform(low_hz, high_hz), clips.log_uniform(short, long))
        body += clips.uniform(0.3, 1) * mode
    return body


def engine(clips: Clips) -> np.ndarray:
    speed_hz = clips.log_uniform(22, 75) * clips.curve(0.92, 1.08, per_second=3)
    tone = clips.tone(speed_hz, _falling(clips, 24, clips.uniform(0.4, 1.2)))
    return unit(tone) + clips.uniform(0.2, 0.8) * unit(
        clips.noise(band(clips.hz, 60, clips.log_uniform(200, 900)))
    )


def siren(clips: Clips) -> np.ndarray:
    sweep = clips.tone(clips.log_uniform(0.3, 4), _PURE)
    hz = clips.log_uniform(600, 1200) * (1 + clips.uniform(0.1, 0.2) * sweep)
    return clips.tone(hz, _falling(clips, 6, clips.uniform(0.8, 2)))


def bird(clips: Clips) -> np.ndarray:
    trill = clips.tone(clips.log_uniform(8, 40), _PURE)
    hz = clips.log_uniform(2200, 5500) * clips.curve(0.75, 1.25, per_second=9) * (1 + 0.04 * trill)
    song = clips.tone(hz, _falling(clips, 2, clips.uniform(2, 4)))
    return song * clips.gate(clips.log_uniform(2, 8), share=clips.uniform(0.3, 0.7))


def chirp(clips: Clips) -> np.ndarray:
    per_second = clips.log_uniform(5, 18)
    rise = (clips.seconds * per_second) % 1
    hz = clips.log_uniform(3000, 6000) * (1 + clips.uniform(-0.3, 0.5) * rise)
    return clips.tone(hz, _PURE) * np.sin(np.pi * rise) ** 4 * clips.curve(0, 1, per_second=3)


def wind(clips: Clips) -> np.ndarray:
    return (
        clips.noise(band(clips.hz, 15, clips.log_uniform(120, 700), 1))
        * clips.curve(0.2, 1, per_second=4) ** 2
    )


def rain(clips: Clips) -> np.ndarray:
    struck = clips.strikes(clips.log_uniform(60, 400), irregular=3)
    drops = clips.filter(struck, _modes(clips, 3, 1500, 8000, 0.002, 0.01))
    loudness = clips.uniform(0.3, 1.5)
    shower = clips.noise(band(clips.hz, clips.log_uniform(700, 3000), 12000, 1))
    return unit(drops) + loudness * unit(shower)


def footsteps(clips: Clips) -> np.ndarray:
    walkers = clips.strikes(clips.log_uniform(1.5, 5), irregular=0.1)
    sole = clips.noise(band(clips.hz, clips.log_uniform(400, 1500), clips.log_uniform(2500, 8000)))
    sole *= np.exp(-clips.seconds / clips.log_uniform(0.008, 0.04))
    body = _modes(clips, 2, 70, 350, 0.01, 0.05)
    return clips.filter(
        walkers, _unit_spectrum(body) + clips.log_uniform(0.3, 1.5) * _unit_spectrum(rfft(sole, axis=1))
    )


def speech(clips: Clips) -> np.ndarray:
    breath = clips.noise(band(clips.hz, 2500, 8000)) * clips.curve(0, 1, per_second=8) ** 3
    return unit(_voice(clips)) + clips.uniform(0.05, 0.3) * unit(breath)


def _voice(clips: Clips) -> np.ndarray:
    """Vowels (clips, samples) of one voice in syllables of random strength, some of them pauses."""
    pitch_hz = clips.log_uniform(85, 260)
    beat = clips.seconds * clips.uniform(3, 6) + clips.rng.random((len(clips), 1), dtype=np.float32)
    syllable = beat.astype(np.int64)
    drawn = (len(clips), syllable.max() + 1)
    vowel = np.take_along_axis(clips.rng.integers(0, len(_VOWELS_HZ), drawn), syllable, axis=1)
    strength = clips.rng.uniform(-0.3, 1, drawn).clip(0).astype(np.float32)
    # The vowel changes where the mouth is closed, so a look-up in another table makes no click.
    opening = np.take_along_axis(strength, syllable, axis=1) * np.sin(
        np.float32(np.pi) * (beat - np.floor(beat))
    )
    tables = _vowel_tables(clips, pitch_hz)
    melody_hz = pitch_hz * clips.curve(0.85, 1.2, per_second=4)
    return _look_up(tables, clips.phase(melody_hz), vowel) * opening


def _vowel_tables(clips: Clips, pitch_hz: np.ndarray) -> np.ndarray:
    """Wave tables (clips, vowels, _TABLE_SAMPLES) of voices of the given pitch (clips, 1)."""
    harmonics_hz = (pitch_hz * np.arange(1, 31))[:, None, :, None]
    formants_hz = clips.uniform(0.9, 1.25)[:, :, None, None] * _VOWELS_HZ[None, :, None, :]
    peaks = np.array([1, 0.5, 0.25]) / (1 + ((harmonics_hz - formants_hz) / (0.12 * formants_hz + 40)) ** 2)
    return _wave_table(peaks.sum(-1) + 0.01)


def babble(clips: Clips) -> np.ndarray:
    voices = np.add.reduce([unit(_voice(clips)) for _ in range(3)])
    crowd = clips.noise(band(clips.hz, 200, clips.log_uniform(600, 2000), 1)) * clips.curve(
        0.4, 1, per_second=6
    )
    return unit(voices) + clips.log_uniform(0.3, 2) * unit(crowd)


def beep(clips: Clips) -> np.ndarray:
    tone = clips.tone(clips.log_uniform(700, 3000), _falling(clips, 3, clips.uniform(1, 3)))
    return tone * clips.gate(clips.log_uniform(1.2, 6), share=clips.uniform(0.3, 0.6))


def door(clips: Clips) -> np.ndarray:
    return clips.filter(
        clips.strikes(clips.uniform(0.8, 2.5), irregular=0.3), _modes(clips, 4, 60, 900, 0.02, 0.12)
    )


def rumble(clips: Clips) -> np.ndarray:
    return clips.noise(band(clips.hz, 25, clips.log_uniform(60, 260), 2)) * clips.curve(0.5, 1, per_second=5)


def hum(clips: Clips) -> np.ndarray:
    tone = clips.tone(clips.log_uniform(50, 240), _falling(clips, 10, clips.uniform(0.8, 2)))
    fan = clips.noise(band(clips.hz, 80, clips.log_uniform(200, 900), 1))
    return unit(tone) + clips.log_uniform(0.1, 1.5) * unit(fan)


def hiss(clips: Clips) -> np.ndarray:
    low_hz = clips.log_uniform(1500, 5000)
    return clips.noise(band(clips.hz, low_hz, low_hz * clips.uniform(1.5, 4))) * clips.curve(
        0.6, 1, per_second=2
    )


def music(clips: Clips) -> np.ndarray:
    notes_per_second = clips.log_uniform(1.5, 5)
    beat = clips.seconds * notes_per_second
    note = beat.astype(np.int64)
    since = beat - np.floor(beat)
    root_hz = clips.log_uniform(110, 330)
    pluck = np.exp(-clips.uniform(0.5, 4) * since) * np.minimum(1, 40 * since)
    chord = np.zeros_like(pluck)
    for interval in (0, 4, 7, 12):
        steps = np.array([0, 2, 5, 7])[clips.rng.integers(0, 4, (len(clips), note.max() + 1))] + interval
        hz = root_hz * 2 ** (np.take_along_axis(steps, note, axis=1) / 12)
        chord += clips.tone(hz, _falling(clips, 8, clips.uniform(0.8, 2.5)))
    return chord * pluck


def horn(clips: Clips) -> np.ndarray:
    hz, slope = clips.log_uniform(280, 480), clips.uniform(0.4, 1.2)
    pair = clips.tone(hz, _falling(clips, 12, slope)) + clips.tone(1.26 * hz, _falling(clips, 12, slope))
    return pair * clips.gate(clips.uniform(0.7, 2), share=clips.uniform(0.2, 0.6))


def air_brake(clips: Clips) -> np.ndarray:
    air = clips.noise(band(clips.hz, clips.log_uniform(800, 2500), clips.log_uniform(5000, 12000)))
    return air * clips.once(clips.uniform(0.005, 0.03), clips.uniform(0.08, 0.4))


def squeal(clips: Clips) -> np.ndarray:
    hz = clips.log_uniform(1400, 5000) * clips.curve(0.96, 1.04, per_second=12)
    partials = clips.tone(hz, _PURE) + 0.6 * clips.tone(hz * clips.uniform(1.3, 1.9), _PURE)
    return partials * clips.curve(-0.3, 1, per_second=4).clip(0)


def clickety_clack(clips: Clips) -> np.ndarray:
    pair = 1 + np.exp(-2j * np.pi * clips.hz * clips.uniform(0.07, 0.16)).astype(np.complex64)
    wheels = clips.strikes(clips.uniform(1.3, 3), irregular=0.02)
    return clips.filter(wheels, pair * _modes(clips, 4, 120, 1500, 0.01, 0.04))


def insect(clips: Clips) -> np.ndarray:
    tone = clips.tone(clips.log_uniform(3500, 8000) * clips.curve(0.98, 1.02, per_second=40), _PURE)
    return tone * clips.gate(clips.log_uniform(15, 70), share=clips.uniform(0.4, 0.9))


def stream(clips: Clips) -> np.ndarray:
    struck = clips.strikes(clips.log_uniform(15, 80), irregular=3)
    bubbles = clips.filter(struck, _modes(clips, 3, 400, 1800, 0.01, 0.04))
    flow = clips.noise(band(clips.hz, clips.log_uniform(300, 900), clips.log_uniform(2000, 7000), 1))
    return unit(flow) + clips.log_uniform(0.2, 1.5) * unit(bubbles)


def clatter(clips: Clips) -> np.ndarray:
    return clips.filter(
        clips.strikes(clips.log_uniform(3, 16), irregular=1), _modes(clips, 5, 1200, 7000, 0.01, 0.08)
    )


def bell(clips: Clips) -> np.ndarray:
    return clips.filter(
        clips.strikes(clips.log_uniform(0.8, 4), irregular=0.05), _modes(clips, 5, 400, 3500, 0.1, 0.7)
    )


def traffic(clips: Clips) -> np.ndarray:
    tyres = clips.noise(band(clips.hz, clips.log_uniform(500, 900), clips.log_uniform(1200, 2500), 2))
    passing = 0.3 + clips.once(clips.uniform(0.2, 1), clips.uniform(0.2, 1))
    return (unit(tyres) + clips.uniform(0.3, 1.5) * unit(clips.noise(band(clips.hz, 30, 160)))) * passing


def unit(signal: np.ndarray) -> np.ndarray:
    """`signal` (clips, samples) with a root mean square of 1 in every clip; silence stays silence."""
    return signal / (np.sqrt(np.mean(signal**2, axis=1, keepdims=True)) + 1e-9)


def _unit_spectrum(spectrum: np.ndarray) -> np.ndarray:
    """`spectrum` (clips, bins) with a mean power of 1 in every clip."""
    return spectrum / np.sqrt(np.mean(np.abs(spectrum) ** 2, axis=1, keepdims=True))


SOUNDS: dict[str, Callable[[Clips], np.ndarray]] = {
    sound.__name__: sound
    for sound in (
        engine, siren, bird, chirp, wind, rain, footsteps, babble, speech, beep, door, rumble,
        hum, hiss, music, horn, air_brake, squeal, clickety_clack, insect, stream, clatter, bell, traffic,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Recipe of a scene."""

    reverberation_seconds: tuple[float, float]
    """Shortest and longest time in which a sound dies away by 60 dB."""
    layers: Sequence[tuple[str, float, float]]
    """Sound, chance that a place has it, level in dB."""


# fmt: off
SCENE_RECIPES = {
    "airport": Scene((1.0, 2.5), [
        ("hum", 0.9, -1), ("babble", 0.9, -4), ("rumble", 0.6, -6), ("bell", 0.8, -2), ("speech", 0.5, -5),
        ("footsteps", 0.4, -9), ("beep", 0.3, -12)]),
    "bus": Scene((0.05, 0.15), [
        ("engine", 1, 0), ("rumble", 0.7, -4), ("air_brake", 0.5, -6), ("clatter", 0.5, -8),
        ("babble", 0.4, -10), ("beep", 0.2, -12), ("door", 0.2, -6)]),
    "metro": Scene((0.1, 0.4), [
        ("rumble", 1, 0), ("clickety_clack", 0.9, -1), ("hum", 0.5, -8), ("hiss", 0.5, -9),
        ("squeal", 0.3, -8), ("babble", 0.3, -10), ("speech", 0.2, -6)]),
    "metro_station": Scene((1.5, 3.0), [
        ("hiss", 0.9, -3), ("rumble", 0.7, -3), ("babble", 0.7, -5), ("squeal", 0.6, -5),
        ("footsteps", 0.5, -6), ("beep", 0.4, -8), ("speech", 0.3, -5)]),
    "park": Scene((0.05, 0.3), [
        ("bird", 0.8, -7), ("wind", 0.8, -2), ("chirp", 0.5, -8), ("insect", 0.4, -10), ("traffic", 0.4, -10),
        ("footsteps", 0.3, -8), ("stream", 0.3, -8), ("speech", 0.2, -8)]),
    "public_square": Scene((0.3, 1.0), [
        ("stream", 0.9, -1), ("babble", 0.8, -4), ("bell", 0.5, -6), ("wind", 0.4, -6),
        ("footsteps", 0.5, -7), ("traffic", 0.4, -7), ("bird", 0.3, -8), ("music", 0.2, -8)]),
    "shopping_mall": Scene((0.5, 1.5), [
        ("music", 0.9, -1), ("babble", 0.9, -2), ("clatter", 0.5, -6), ("footsteps", 0.5, -8),
        ("hum", 0.5, -7), ("beep", 0.4, -8), ("speech", 0.3, -6)]),
    "street_pedestrian": Scene((0.2, 0.6), [
        ("footsteps", 0.9, -2), ("speech", 0.6, -4), ("babble", 0.7, -4), ("traffic", 0.4, -8),
        ("wind", 0.3, -8), ("music", 0.2, -8), ("bell", 0.2, -8)]),
    "street_traffic": Scene((0.05, 0.4), [
        ("traffic", 1, 2), ("horn", 0.6, -4), ("engine", 0.5, -7), ("rain", 0.3, -8), ("siren", 0.2, -6),
        ("wind", 0.3, -6), ("footsteps", 0.3, -8), ("air_brake", 0.2, -8)]),
    "tram": Scene((0.1, 0.3), [
        ("hum", 1, 0), ("rumble", 0.7, -4), ("squeal", 0.6, -6), ("bell", 0.4, -5),
        ("clickety_clack", 0.3, -8), ("babble", 0.4, -9), ("beep", 0.2, -12), ("door", 0.2, -6)]),
}
# fmt: on


def render_scene(scene: Scene, clips: Clips) -> np.ndarray:
    """Clips (clips, samples) float32 of a scene;
    each place has its own mix, reverberation, tilt and level."""
    places = replace(clips, place=np.arange(clips.place.max() + 1))
    mixed = unit(clips.noise(_background_gain(places)[clips.place])) * _gain(clips, -12, -3)
    for name, chance, level_db in scene.layers:
        _add_layer(mixed, clips, name, level_db, at_place=clips.rng.random(len(places)) < chance)
    # Some places hold a sound that says nothing about their scene.
    stranger = np.where(clips.rng.random(len(places)) < 0.5, clips.rng.choice(list(SOUNDS), len(places)), "")
    for name in filter(None, np.unique(stranger)):
        _add_layer(mixed, clips, name, -6, at_place=stranger == name)
    mixed = clips.filter(mixed, _room_gain(places, scene.reverberation_seconds)[clips.place])
    power_of_place = np.bincount(clips.place, np.mean(mixed**2, axis=1)) / np.bincount(clips.place)
    level = places.uniform(-42, -22)[:, 0]
    return (mixed * (10 ** (level / 20) / np.sqrt(power_of_place))[clips.place, None]).astype(np.float32)


def render_events(present: dict[str, np.ndarray], clips: Clips) -> np.ndarray:
    """Clips (clips, samples) float32 of single sounds:
    `present` says for every sound which clips (clips,) have it."""
    mixed = unit(clips.noise(_background_gain(clips))) * _gain(clips, -40, -15)
    for name, chosen in present.items():
        if chosen.any():
            _add_sound(mixed, clips, name, chosen, (-6, 6))
    mixed = unit(clips.filter(mixed, _room_gain(clips, (0.05, 1.5))))
    return (mixed * _gain(clips, -35, -20)).astype(np.float32)


def _add_layer(mixed: np.ndarray, clips: Clips, name: str, level_db: float, *, at_place: np.ndarray) -> None:
    chosen = at_place[clips.place] & (clips.rng.random(len(clips)) < 0.85)
    if chosen.any():
        _add_sound(mixed, clips, name, chosen, (level_db - 5, level_db + 5))


def _add_sound(
    mixed: np.ndarray, clips: Clips, name: str, chosen: np.ndarray, level_db: tuple[float, float]
) -> None:
    those = clips.only(chosen)
    mixed[chosen] += unit(SOUNDS[name](those)) * _gain(those, *level_db)


def _gain(clips: Clips, low_db: float, high_db: float) -> np.ndarray:
    return 10 ** (clips.uniform(low_db, high_db) / 20)


def _background_gain(places: Clips) -> np.ndarray:
    """Magnitudes (places, bins) of steady noise: a slope with two broad bumps."""
    gain = band(places.hz, 20, 14000) * places.hz ** -places.uniform(0.3, 1.1)
    for _ in range(2):
        gain *= 1 + places.uniform(0, 2) * band(places.hz / places.log_uniform(100, 5000), 0.7, 1.4)
    return gain


def _room_gain(places: Clips, reverberation_seconds: tuple[float, float]) -> np.ndarray:
    """Complex spectrum (places, bins) of the direct sound, the reverberation and a tilt."""
    decay = np.exp(-6.9 * places.seconds / places.uniform(*reverberation_seconds))
    tail = places.noise(band(places.hz, 80, 5000, 1)) * decay
    tilt = (places.hz / 1000) ** places.uniform(-0.4, 0.4)
    return (1 + places.log_uniform(0.2, 1.5) * _unit_spectrum(rfft(tail, axis=1))) * tilt
