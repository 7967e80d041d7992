"""The routing self-test that a router has to pass before it is promoted:
does every device get its own model?"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException

from adaptf.compression.runtime import PT2, load_form
from adaptf.data.clips import UNKNOWN
from adaptf.errors import UserError
from adaptf.serving.bundle import MANIFEST
from adaptf.serving.local import local_router
from adaptf.serving.requests import AUDIO, DEVICE
from adaptf.serving.signature import example_request

_UNSEEN = "a-device-nobody-trained-for"


def routing_problems(folder: Path) -> list[str]:
    """A message per name that is not answered by the model it should be;
    none where the bundle routes as it should.

    Every device of the bundle is asked for, also with blanks around its name, and null, empty,
    upper-case and unseen names, which are for `unknown`.
    """
    try:
        model = local_router(folder)
        # From the manifest itself, lest a mistake in reading it goes unseen.
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["models"]
        for entry in manifest.values():
            load_form(
                folder / entry["file"], PT2
            )  # where OpenVINO served just now, the file itself has not been read
        names = _names_to_ask(manifest)
        clip = example_request()["dataframe_records"][0][AUDIO]
        answers = model.predict(None, pd.DataFrame({AUDIO: clip, DEVICE: names}))
    except (UserError, MlflowException) as error:
        return [str(error)]
    used = zip(answers["device_used"], answers["version_used"], strict=True)
    return [
        problem
        for name, there in zip(names, used, strict=True)
        for problem in _problems_with(name, there, manifest)
    ]


def _names_to_ask(models: Mapping[str, object]) -> list[str | None]:
    """Devices of a bundle, their names with blanks around them, and names close to them that are nobody's."""
    changed = [name for device in models for name in (device.upper(), f" {device}", f"{device} ")]
    return [*models, None, "", _UNSEEN, *changed]


def _problems_with(
    name: str | None, used: tuple[str, str], models: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """`used`: device and version that answered for a name."""
    stripped = (name or "").strip()
    device = stripped if stripped in models else UNKNOWN
    wanted = (device, models[device]["version"])
    if used == wanted:
        return []
    return [
        f"a clip of device {name!r} is answered by {used[0]!r} ({used[1]}) instead of {wanted[0]!r} "
        f"({wanted[1]})"
    ]
