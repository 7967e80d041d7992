"""Which student the settings name, and which are refused before any work."""

from dataclasses import replace
from typing import Any

import pytest

from adaptf.errors import UserError
from adaptf.mlproject.main import MainConfig, check_size
from adaptf.mlproject.quantize import QuantizeConfig
from adaptf.mlproject.train import TrainConfig
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import MelConfig, ModelConfig

CP_MOBILE = ModelConfig(kind="cp_mobile")


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (ModelConfig(), {"width": 64, "depth": 17, "dropout": 0.1}),
        (ModelConfig(dropout=0.0), {"width": 64, "depth": 17, "dropout": 0.0}),
        (CP_MOBILE, {"width": 32, "multiplier": 1.8, "expansion": 2.1}),
        (
            ModelConfig(kind="cp_mobile", width=64, settings={"expansion": 3}),
            {"width": 64, "multiplier": 1.8, "expansion": 3},
        ),
    ],
)
def test_each_student_has_its_own_size_where_none_is_said(
    model: ModelConfig, settings: dict[str, Any]
) -> None:
    assert model.network_settings() == settings


def test_what_a_student_has_not_is_refused_even_where_it_is_another_ones_default() -> None:
    with pytest.raises(UserError, match=r"model\.depth: cp_mobile has none, it takes width, multiplier"):
        ModelConfig(kind="cp_mobile", depth=17)


def test_an_impossible_size_is_refused_before_a_training_begins() -> None:
    with pytest.raises(UserError, match="model: width should be a positive multiple of 8, got 36"):
        check_training(TrainConfig(model=replace(CP_MOBILE, width=36)))


def test_main_refuses_at_once_a_student_that_quantize_would_refuse() -> None:
    config = MainConfig(model=CP_MOBILE)
    with pytest.raises(
        UserError, match="cp_mobile of 512 bands takes 53,906,068 multiply-accumulates, at most"
    ):
        check_size(config)
    check_size(replace(config, mel=MelConfig(bands=256)))
    check_size(replace(config, quantize=QuantizeConfig(refuse=False)))
