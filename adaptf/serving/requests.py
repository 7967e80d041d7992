"""Reading of a request's rows: base64 audio, checked before it is decoded, -> clips of one length."""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from threading import Event
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException

from adaptf.data.decode import GUESSING, UNKNOWN_FRAMES, AudioError, Waveform, decode, error_text, seconds_of
from adaptf.data.joined import files_in
from adaptf.data.parts import parts_in

AUDIO, DEVICE = "audio", "device"
STREAM, SECOND = "stream", "second"
_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")

MAX_ROWS = 512

MAX_SAMPLE_RATE, MAX_CHANNELS = 192_000, 8
"""Together with the length they bound what decoding one row may take,
however small the compressed bytes are."""

MAX_PEAK = 8.0
"""18 dB over full scale. Beyond it a float file is not scaled to [-1, 1], and the answer would be wrong."""

_WANTED_FILE = "it should be a WAV, FLAC, OGG or MP3 file"
_WANTED_TEXT = "it should be base64 of the bytes of a WAV, FLAC, OGG or MP3 file"
Columns = Mapping[str, Sequence[Any]]
"""Of a table, by name."""
WANTED_COLUMNS = (
    f"a row has {AUDIO!r} (base64 of a WAV, FLAC, OGG or MP3 file) and may have {DEVICE!r} (a device's name)"
    f"; one of a stream has {STREAM!r} (its name) and {SECOND!r} (where the audio begins, from 0)"
)

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Row:
    """One row of a request, its audio not decoded yet."""

    number: int
    """From 0."""
    device: str | None
    """As it was asked for: None where the request names none."""
    file: BytesIO
    seconds: float
    """Of its audio."""


class GivenUp(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class BadRow:
    """One that cannot be answered."""

    number: int
    """From 0."""
    device: str | None
    """As it was asked for; None also where it is what cannot be read."""
    error: str
    """What is wrong, and what would be right."""


def columns_of(table: Any) -> Columns:
    """Of a DataFrame. Raises MlflowException (INVALID_PARAMETER_VALUE, HTTP 400) where it is none, its
    columns are not those of rows, or it has no rows."""
    if not isinstance(table, pd.DataFrame):
        raise invalid(f"send rows as 'dataframe_records' or 'dataframe_split', got {type(table).__name__}")
    check_columns(list(table.columns))
    if table.empty:
        check_number(0)
    return {str(column): table[column].tolist() for column in table}


def read_rows(columns: Columns, *, max_seconds: float, stop: Event) -> Iterator[Row | BadRow]:
    """Rows of a table, in order, each read when it is asked for; `max_seconds` limits a row's audio, whose
    length is checked before anything else is done with it.

    Raises GivenUp while it reads, once `stop` is set.
    """
    devices = columns[DEVICE] if DEVICE in columns else [None] * len(columns[AUDIO])
    return (
        _read_row(number, audio, device, max_seconds, stop)
        for number, (audio, device) in enumerate(zip(columns[AUDIO], devices, strict=True))
    )


def _read_row(number: int, audio: Any, device: Any, max_seconds: float, stop: Event) -> Row | BadRow:
    go_on(stop)
    asked = None
    try:
        asked = _read_device(device)
        file = _read_file(audio)
        return Row(number, asked, file, checked_seconds(file, max_seconds))
    except ValueError as error:
        return BadRow(number, asked, str(error))


def refuse(row: _Result | BadRow) -> _Result:
    """A row that is none of the bad ones.
    Raises MlflowException (INVALID_PARAMETER_VALUE, HTTP 400) for one that is."""
    if isinstance(row, BadRow):
        raise invalid(f"row {row.number}: {row.error}")
    return row


def go_on(stop: Event) -> None:
    """Raises GivenUp once `stop` is set."""
    if stop.is_set():
        raise GivenUp


def clips_of(row: Row, *, sample_rate: int, clip_samples: int) -> Waveform | BadRow:
    """The decoded audio, (clips, clip_samples)."""
    try:
        return cut_clips(_checked_waveform(row.file, sample_rate), clip_samples)
    except ValueError as error:
        return BadRow(row.number, row.device, str(error))


def check_columns(columns: Sequence[Any]) -> None:
    """Raises MlflowException where they are not those of rows."""
    if unknown := [column for column in columns if column not in (AUDIO, DEVICE, STREAM, SECOND)]:
        raise invalid(f"unknown column {shown(unknown[0])}: {WANTED_COLUMNS}")
    if AUDIO not in columns:
        raise invalid(f"no column {AUDIO!r} among {list(columns)}: {WANTED_COLUMNS}")
    if len(set(columns)) < len(columns):
        raise invalid(f"a column stands twice in {list(columns)}: {WANTED_COLUMNS}")


def check_number(rows: int) -> None:
    """Raises MlflowException where they are too many or none."""
    if not 1 <= rows <= MAX_ROWS:
        raise invalid(f"a request should have 1 to {MAX_ROWS} rows, got {rows}")


def each_row(values: Iterable[_Value], read: Callable[[_Value], _Result]) -> Iterator[_Result]:
    """`read` of every value; a ValueError becomes one that names the row."""
    for row, value in enumerate(values):
        try:
            result = read(value)
        except ValueError as error:
            raise invalid(f"row {row}: {error}") from error
        yield result


def _read_device(value: Any) -> str | None:
    """The name as it stands, even if empty; None for null."""
    if isinstance(value, str):
        return value
    if is_null(value):
        return None
    raise ValueError(f"{DEVICE} should be text or null, got {shown(value)}")


def is_null(value: Any) -> bool:
    """Whether it is None, or what stands for it in a DataFrame."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _read_file(value: Any) -> BytesIO:
    """A file that comes as its bytes, or as base64 of them."""
    if not isinstance(value, bytes):
        return read_base64(value)
    if not value:
        raise ValueError(f"{AUDIO} is empty; {_WANTED_FILE}")
    return BytesIO(value)


def read_base64(value: Any) -> BytesIO:
    """The bytes of a file. Line breaks, as `base64` prints them, are allowed."""
    if not isinstance(value, str):
        raise ValueError(f"{AUDIO} is {'null' if is_null(value) else shown(value)}; {_WANTED_TEXT}")
    text = "".join(value.split())
    if not text:
        raise ValueError(f"{AUDIO} is empty; {_WANTED_TEXT}")
    try:
        return BytesIO(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{AUDIO} {shown(text)} is not base64 ({error}); {_WANTED_TEXT}") from error


def checked_seconds(file: BytesIO, max_seconds: float) -> float:
    """Length of the audio, where its header tells it without decoding.
    Raises ValueError where there is too much of it."""
    header = _checked_header(file)
    others = files_in(file.getvalue(), header.format)[1:]
    for other in others:
        _checked_header(BytesIO(other))
    if header.format in GUESSING or others:
        seconds = seconds_of(file, max_seconds=max_seconds)
        if seconds > max_seconds:
            raise AudioError(f"{AUDIO} is longer than {max_seconds:g} s: cut it")
        return seconds
    seconds = float(header.frames / header.samplerate)
    if seconds > max_seconds:
        raise AudioError(
            f"{AUDIO} lasts {seconds:.1f} s by its header; at most {max_seconds:g} s are read: cut it"
        )
    return seconds


def _checked_header(file: BytesIO) -> Any:
    """What soundfile finds in it. Raises AudioError where nothing of it should be decoded."""
    try:
        header = soundfile.info(file)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(f"{AUDIO} is not readable as audio ({error_text(error)}); {_WANTED_FILE}") from error
    finally:
        file.seek(0)
    if header.format not in _FORMATS:
        raise AudioError(f"{AUDIO} is in the format {header.format}; {_WANTED_FILE}")
    if not 1 <= header.samplerate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{AUDIO} has {header.samplerate} samples a second; at most {MAX_SAMPLE_RATE} are read"
        )
    if header.channels > MAX_CHANNELS:
        raise AudioError(f"{AUDIO} has {header.channels} channels; at most {MAX_CHANNELS} are read")
    if header.frames == UNKNOWN_FRAMES:
        raise AudioError(
            f"the header of {AUDIO} does not say how long it is, as in a stream: write it to a file again"
        )
    return header


def _checked_waveform(file: BytesIO, sample_rate: int) -> Waveform:
    """Samples (samples,) in about [-1, 1]."""
    waveform = decode(file, sample_rate=sample_rate)
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > MAX_PEAK:
        raise AudioError(f"{AUDIO} has samples up to {peak:g}; full scale is 1")
    return waveform


def cut_clips(waveform: Waveform, clip_samples: int) -> Waveform:
    """(samples,) -> (clips, clip_samples), consecutive; zeros after the end."""
    padded = np.zeros((parts_in(len(waveform), clip_samples), clip_samples), dtype=np.float32)
    kept = waveform[: padded.size]
    padded.reshape(-1)[: len(kept)] = kept
    return padded


def shown(value: Any) -> str:
    """A value as an error message quotes it: short."""
    text = repr(value[:41] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def invalid(message: str) -> MlflowException:
    """An error that MLflow's scoring server answers with HTTP 400."""
    return MlflowException.invalid_parameter_value(message)
