"""Which INT8 models may go on."""

import math
from dataclasses import replace

import pytest
from fixtures.quantized import FOUND, TOO_LARGE

from adaptf.compression.agreement import Agreement
from adaptf.compression.form_cost import FormCost
from adaptf.errors import UserError
from adaptf.evaluation.relative_loss import RelativeLoss
from adaptf.mlproject.quantize import QuantizeConfig, judge_losses, problems_of

DEFAULTS = QuantizeConfig()


def test_a_good_int8_model_may_go_on():
    assert problems_of(FOUND, DEFAULTS) == []


def test_a_loss_that_chance_may_have_made_is_no_reason():
    assert problems_of(replace(FOUND, int8_accuracy=0.54, loss=RelativeLoss(0.1, 0.009)), DEFAULTS) == []
    assert problems_of(replace(FOUND, int8_accuracy=0.54, loss=RelativeLoss(0.1, 0.0)), DEFAULTS) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": RelativeLoss(0.05, 0.021)},
            "s1: a relative loss of 5.0%, of which 2.1% stand over places, on the validation clips of all "
            "devices, tolerable is 1.0%",
        ),
        (
            {"agreement": Agreement(0.31, 0.7)},
            "s1: INT8 logits differ from float ones by 0.31 of their spread, tolerable is 0.15",
        ),
        (
            {"agreement": Agreement(math.nan, 0.7)},
            "s1: INT8 logits differ from float ones by nan of their spread, tolerable is 0.15",
        ),
        ({"int8_convolutions": 45}, "s1: 45 of 46 convolutions are INT8"),
        ({"complexity": TOO_LARGE}, "s1: 128,596 bytes of parameters, at most 128,000 allowed"),
        ({"complexity": TOO_LARGE}, "s1: 30,740,608 multiply-accumulates, at most 30,000,000 allowed"),
        (
            {"cost": FormCost(102_557_824, 126_868)},
            "s1: 102,557,824 multiply-accumulates, at most 30,000,000 allowed (counted in its file)",
        ),
    ],
)
def test_a_bad_int8_model_is_refused_with_its_figures(changes, message):
    assert message in problems_of(replace(FOUND, **changes), DEFAULTS)


def test_a_model_that_loses_too_much_stops_the_stage_or_is_told_where_nothing_is_deployed():
    lossy = replace(FOUND, loss=RelativeLoss(0.3, 0.2))
    with pytest.raises(UserError, match=r"s1: a relative loss of 30.0%"):
        judge_losses([FOUND, lossy], DEFAULTS)
    assert "s1: a relative loss of 30.0%" in judge_losses([FOUND, lossy], QuantizeConfig(refuse=False))
    assert judge_losses([FOUND], DEFAULTS) == "every INT8 model may go on"
