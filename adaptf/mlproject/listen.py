"""Tells second by second in which scene a microphone or a long sound file is. It makes no run of its own."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException

from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.cuts import padded_clips
from adaptf.data.decode import AudioError, Resampler
from adaptf.errors import UserError
from adaptf.evaluation.forward_filter import STAY_SECONDS
from adaptf.pipeline.command_line import command_arguments
from adaptf.pipeline.config import file_or_name, path_field
from adaptf.pipeline.interrupts import end_in_order
from adaptf.pipeline.printed import print_told
from adaptf.reports.stream_figure import stream_figure
from adaptf.serving.local import local_router
from adaptf.serving.logged_model import bundle_behind
from adaptf.serving.own_code import wav_of
from adaptf.serving.requests import AUDIO, DEVICE, SECOND, STREAM
from adaptf.serving.router import DeviceRouter
from adaptf.tracking.present import IN_PRODUCTION, present_version
from adaptf.tracking.runs import NONE

_BAR = 20
"""Characters of a probability of 1."""
_FOLLOWING = {"live": True, "check_seconds": 86_400.0}
"""Settings of a router that takes up what is in production before its first answer, with what each version
says of streams, and then practically never."""
_AS_REGISTERED = {"live": False}


@dataclass(frozen=True)
class ListenConfig:
    """Tells in which scene a microphone or a sound file is, and draws the probabilities at the end, which
    Ctrl-C brings about too."""

    file: str = path_field(NONE)
    """Sound file of any length; none: the microphone, by the package sounddevice."""
    model_uri: str = file_or_name(IN_PRODUCTION)
    """The router, or any registered model of adaptf."""
    device: str = ""
    """Name of the device that records, where the router has a model for it."""
    stay_seconds: float = STAY_SECONDS
    """How long the device stays in a scene, typically: with longer stays changes are followed later."""
    picture: str = path_field("listen.png")
    """PNG file for the probabilities over time."""


def listen(config: ListenConfig) -> str:
    """What was heard, as text; a line per second is printed before.
    Raises UserError for what can't be used."""
    picture = Path(config.picture)
    if picture.suffix != ".png":
        raise UserError(f"picture={picture} should end with .png")
    sounds = microphone() if config.file == NONE else seconds_of(Path(config.file))
    heard = []
    with suppress(KeyboardInterrupt):
        for row in answers(ready_router(config.model_uri), sounds, config):
            print(line(row), flush=True)
            heard.append(row["probabilities"])
    if not heard:
        return "Nothing was heard."
    stream_figure(pd.DataFrame(heard), picture)
    return f"{len(heard)} s were heard; {picture} shows the probabilities."


def ready_router(uri: str) -> DeviceRouter:
    """Of what the URI stands for now; in production also the devices' models are."""
    with TemporaryDirectory(prefix="adaptf-") as folder:
        bundle = bundle_behind(present_version(uri), Path(folder), what=uri)
        return local_router(bundle, **(_FOLLOWING if uri == IN_PRODUCTION else _AS_REGISTERED))


def answers(router: DeviceRouter, sounds: Iterator[bytes], config: ListenConfig) -> Iterator[pd.Series]:
    """The router's to each second, as one stream."""
    params = {"aggregate": "stream", "stay_seconds": config.stay_seconds}
    try:
        for second, wav in enumerate(sounds):
            row = {
                AUDIO: [b64encode(wav).decode()],
                DEVICE: [config.device or None],
                STREAM: "listen",
                SECOND: second,
            }
            yield router.predict(None, pd.DataFrame(row), params).iloc[0]
    except MlflowException as error:
        raise UserError(error.message) from error


def line(row: pd.Series) -> str:
    """An answer for people, with a bar."""
    bar = "█" * round(_BAR * row["probability"])
    return f"{row[SECOND]:>6} s  {row['scene']:<18} {row['probability']:>4.0%} {bar}"


def seconds_of(path: Path) -> Iterator[bytes]:
    """Those of a file, each as a sound file. Raises UserError where it is none."""
    try:
        yield from map(wav_of, padded_clips(path, Resampler(CLIP_RATE), clip_samples=CLIP_RATE))
    except AudioError as error:
        raise UserError(f"{path}: {error}") from error


def microphone() -> Iterator[bytes]:
    """The seconds of the usual one, without end. Raises UserError where there is none."""
    try:
        import sounddevice

        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        stream = sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32")
    except ImportError as error:
        raise UserError(
            "to listen to a microphone install the package sounddevice (pip install sounddevice), or give a "
            "sound file: --file=walk.wav"
        ) from error
    except Exception as error:  # PortAudio is not there, or finds no microphone
        raise UserError(f"there is no microphone to listen to ({error}): --file=walk.wav") from error
    return recorded(stream, rate)


def recorded(stream: Any, rate: int) -> Iterator[bytes]:
    """What a stream of sounddevice records, each second as a sound file."""
    with stream:
        while True:
            samples, _ = stream.read(rate)
            wav = BytesIO()
            soundfile.write(wav, samples, rate, format="WAV", subtype="FLOAT")
            yield wav.getvalue()


if __name__ == "__main__":
    end_in_order()
    print_told(listen, ListenConfig, name="listen", arguments=command_arguments())
