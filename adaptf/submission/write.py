"""The package that is handed in: plain Python that needs none of adaptf, weights, what the scripts read."""

import json
import re
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import soundfile
import torch

from adaptf.audio import cores, kaldi_mel, logmel
from adaptf.submission.models import Submitted
from adaptf.submission.network_code import NetworkCode, network_code
from adaptf.submission.package import inference, layers

REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "soundfile", "soxr", "torch", "torchinfo")
"""Of the package, and of the organisers' scripts; the versions installed here are written into it."""
_OWN_IMPORT = re.compile(r"^from adaptf(?:\.\w+)*\.(\w+) import", flags=re.MULTILINE)
_SETUP = '''"""Installs the inference package {name}."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="{name}",
    version="1.0",
    packages=find_packages(),
    package_data={{"": ["*.wav", "*.csv", "*.json", "*.pt"]}},
    install_requires=Path(__file__).with_name("requirements.txt").read_text().split(),
    python_requires=">=3.10",
)
'''
_DUMMY_RATE = 44_100


def write_package(
    folder: Path, name: str, index: int, models: Submitted, test: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Writes a new folder with the package `name`, whose module `<name>_<index>` predicts; `test` is the list
    of test clips (filename, scene_label). Returns the table of layers by device.

    Raises ValueError where a network can't be written as plain code.
    """
    package = folder / name
    own, resources = package / f"model_{index}", package / "resources"
    for one in (package, own, resources):
        one.mkdir(parents=True)
        (one / "__init__.py").touch()
    for module, file in _copied(name, index).items():
        (package / f"{file}.py").write_text(_source(module))
    codes = {device: network_code(program) for device, program in models.programs.items()}
    _write_networks(own, codes, models)
    test.to_csv(resources / "test.csv", sep="\t", index=False)
    noise = 0.01 * np.random.default_rng(0).standard_normal(_DUMMY_RATE)
    soundfile.write(resources / "dummy.wav", noise, _DUMMY_RATE, subtype="PCM_16")
    (folder / "setup.py").write_text(_SETUP.format(name=name))
    needed = [f"{one}=={installed_version(one).partition('+')[0]}\n" for one in REQUIREMENTS]
    (folder / "requirements.txt").write_text("".join(needed))
    return {device: code.layers for device, code in codes.items()}


def _copied(name: str, index: int) -> dict[ModuleType, str]:
    """Modules of adaptf that need nothing but each other, and what they are called in the package."""
    own = {module: module.__name__.rpartition(".")[2] for module in (layers, logmel, kaldi_mel, cores)}
    return {inference: f"{name}_{index}", **own}


def _source(module: ModuleType) -> str:
    """With imports relative to the package."""
    return _OWN_IMPORT.sub(r"from .\1 import", Path(str(module.__file__)).read_text())


def _write_networks(folder: Path, codes: Mapping[str, NetworkCode], models: Submitted) -> None:
    """Code that several devices share once, the weights of all, and the settings."""
    sources = list(dict.fromkeys(code.source for code in codes.values()))
    for number, source in enumerate(sources, 1):
        (folder / f"network_{number}.py").write_text(source)
    weights = {
        f"networks.{place}.{name}": tensor
        for place, code in enumerate(codes.values())
        for name, tensor in code.tensors.items()
    }
    torch.save(weights, folder / "weights.pt")
    settings = {
        "classes": models.scenes,
        "networks": {device: f"network_{sources.index(code.source) + 1}" for device, code in codes.items()},
        "log_mel": models.log_mel,
        "clip_samples": models.clip_samples,
        "versions": models.versions,
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=1))
