"""A registered version as it answers files by its own code: by processes of this package where that is the
code which is installed here, else by a process that runs the version's."""

import base64
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from mlflow.exceptions import MlflowException

import adaptf
from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.decode import Waveform
from adaptf.data.errors import DataError
from adaptf.data.processes import process_pool
from adaptf.serving.bundle import MANIFEST
from adaptf.serving.file_answers import Answers, Asked, Clip, by_networks, by_networks_on_one_core
from adaptf.serving.logged_model import bundle_behind, code_behind
from adaptf.serving.requests import AUDIO, DEVICE
from adaptf.serving.router_process import RouterProcess
from adaptf.serving.with_versions import with_versions

_REQUESTS_AT_ONCE = 2
"""While a process answers one on all its threads, the files of the next are read and encoded here."""


@contextmanager
def answering(
    uri: str, versions: Mapping[str, str], folder: Path, *, parts: int
) -> Iterator[tuple[Executor, Callable[[], Asked]]]:
    """Where so many parts of a table are worked on, and who answers there: a model, with these versions, such
    as `adaptf-a/3`, for their devices. All is fetched into the folder.

    Raises UserError that names a model which cannot answer.
    """
    bundle = with_versions(bundle_behind(uri, folder, what=uri), versions, folder / "versions")
    code = code_behind(uri, folder, what=uri)
    workers = min(torch.get_num_threads(), parts)
    if is_installed(code) and workers == 1:
        asked = by_networks(bundle)
        with ThreadPoolExecutor(1) as pool:
            yield pool, lambda: asked
    elif is_installed(code):
        with process_pool(workers, fresh=True) as pool:  # fresh: OpenVINO does not outlive a copy
            yield pool, partial(by_networks_on_one_core, bundle)
    else:
        print(f"{uri} answers by its own code, in a process of its own", flush=True)
        scenes = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["scenes"]
        with (
            closing(RouterProcess(code, bundle, what=uri)) as router,
            ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool,
        ):
            yield pool, lambda: ByRouter(router, scenes)


@dataclass(frozen=True)
class ByRouter:
    """A router of any version of this package: all of them know rows of base64."""

    router: RouterProcess
    scenes: Sequence[str]
    clips_at_once = 256
    """Within what a router takes at once, whoever registered it."""

    def answer(self, clips: Sequence[Clip]) -> Answers:
        """Raises DataError that names the files between which it is that the router refuses."""
        audio = [base64.b64encode(wav_of(clip.waveform)).decode() for clip in clips]
        rows = pd.DataFrame({AUDIO: audio, DEVICE: [clip.device for clip in clips]})
        try:
            answers = self.router.predict(None, rows)
        except MlflowException as error:
            raise DataError(f"{clips[0].filename} to {clips[-1].filename}: {error.message}") from error
        used = list(zip(answers["device_used"], answers["version_used"], strict=True))
        by_scene = pd.DataFrame(list(answers["probabilities"]))
        return Answers(used, by_scene[list(self.scenes)].to_numpy(np.float64))


def wav_of(waveform: Waveform) -> bytes:
    """A WAV file of samples (samples,) at CLIP_RATE."""
    wav = BytesIO()
    soundfile.write(wav, waveform, CLIP_RATE, format="WAV", subtype="FLOAT")
    return wav.getvalue()


def is_installed(code: Path) -> bool:
    """Whether every file of a model's code is the same here; then so is what they import."""
    here = Path(adaptf.__file__).parents[1]
    return all(
        (here / name).is_file() and (here / name).read_bytes() == source for name, source in _sources(code)
    )


def _sources(code: Path) -> Iterator[tuple[str, bytes]]:
    """Names below the folder that Python imports from, and what the files hold."""
    if code.is_file():
        with zipfile.ZipFile(code) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        for path in code.rglob("*.py"):
            yield path.relative_to(code).as_posix(), path.read_bytes()
