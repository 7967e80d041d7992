"""Fixtures of all tests: reference numbers, files in the format of BEATs, and no way to load a pickle."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from adaptf.data.clips import TRAIN
from adaptf.data.sets.published_lists import tau_split

os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
pytest_plugins = [
    "fixtures.noise_data",
    "fixtures.postgresql",
    "fixtures.serving",
    "fixtures.shadow",
    "fixtures.guarded",
    "fixtures.stages",
]
GOLDEN = Path(__file__).parent / "golden"


SLOW = {"network_files", "prepared"}
"""Fixtures that take seconds: they quantize, or are the first of the stages that a test runs."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs such a fixture is slow."""
    for item in items:
        if SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """Reference numbers of the public trainer, by the name of their file."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def official_clips() -> Callable[[str], pd.DataFrame]:
    """The clip table of an official training list of TAU 2022 Mobile, such as '25'."""

    def read(split: Any) -> pd.DataFrame:
        names = tau_split(split)  # audio/<scene>-<city>-<location>-<recording>-<segment>-<device>.wav
        parts = names.str.removeprefix("audio/").str.removesuffix(".wav").str.split("-", expand=True)
        places = parts[1] + "-" + parts[2]
        return pd.DataFrame(
            {"filename": names, "scene": parts[0], "device": parts[5], "location": places, "split": TRAIN}
        )

    return read


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def published_beats_cfg() -> Callable[[], dict[str, Any]]:
    """The settings of BEATs_iter3_plus_AS2M."""
    return published_cfg


@pytest.fixture(scope="session")
def write_beats_file() -> Callable[..., Path]:
    """`write_beats_file(path, cfg, *, finetuned=False, seed=0) -> Path`:
    random weights in the format of a BEATs file."""
    return write_random_beats


def published_cfg() -> dict[str, Any]:
    """Twelve layers of 768, 90 million weights."""
    return {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "activation_fn": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.1,
        "layer_norm_first": False,
        "conv_bias": False,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "relative_position_embedding": True,
        "num_buckets": 320,
        "max_distance": 800,
        "gru_rel_pos": True,
        "deep_norm": True,
        "input_patch_size": 16,
        "layer_wise_gradient_decay_ratio": 1.0,
        "embed_dim": 512,
    }


PUBLISHED_NAMES = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
"""Of weight normalization, as PyTorch called it when BEATs was published."""


def write_random_beats(path: Path, cfg: Mapping[str, Any], *, finetuned: bool = False, seed: int = 0) -> Path:
    """Pre-trained only, or fine-tuned with a predictor of AudioSet's 527 labels."""
    from adaptf.models.teachers.beats import BeatsEncoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = BeatsEncoder(cfg).state_dict()
        predictor = torch.nn.Linear(cfg["encoder_embed_dim"], 527).state_dict(prefix="predictor.")
    for name, published in PUBLISHED_NAMES.items():
        weights[f"encoder.pos_conv.0.{published}"] = weights.pop(f"encoder.pos_conv.0.{name}")
    if not finetuned:
        torch.save({"cfg": dict(cfg), "model": dict(weights)}, path)
        return path
    finetuned_cfg = {**cfg, "finetuned_model": True, "predictor_dropout": 0.0, "predictor_class": 527}
    labels = {place: f"/m/{place}" for place in range(527)}
    torch.save({"cfg": finetuned_cfg, "model": {**weights, **predictor}, "label_dict": labels}, path)
    return path
