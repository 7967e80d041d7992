"""Which calibration is kept."""

from dataclasses import replace

import pytest

from adaptf.compression.complexity import Complexity
from adaptf.errors import UserError
from adaptf.mlproject import quantize
from adaptf.mlproject.quantize import QuantizeConfig, Quantized, judge, quantize_device

FOUND = Quantized("a", 0.5, 0.5, 43, 43, Complexity(1, 1, 1, 1, 1), "200 clips", 0)


class Data:
    """Forty training clips."""

    def clips(self, split, device=None):
        return range(40)


@pytest.fixture
def trials(monkeypatch, tmp_path):
    """Runs the trials with these INT8 accuracies, each writing its number; gives what was found, kept and tried."""

    def run(accuracies):
        tried = []

        def once(config, data, device, classifier, path, calibration):
            path.write_text(str(len(tried)))
            tried.append(len(calibration))
            return replace(FOUND, int8_accuracy=accuracies[len(tried) - 1])

        monkeypatch.setattr(quantize, "quantize_once", once)
        monkeypatch.setattr(quantize, "calibration_rows", lambda clips, count, seed: range(count))
        path = tmp_path / "int8" / "a.pt2"
        path.parent.mkdir()
        found = quantize_device(QuantizeConfig(trials=len(accuracies)), Data(), "a", None, path)
        assert [file.name for file in path.parent.iterdir()] == ["a.pt2"]
        return found.int8_accuracy, path.read_text(), tried

    return run


def test_the_first_calibration_within_the_tolerance_is_kept(trials):
    assert trials([0.4, 0.499, 0.6]) == (0.499, "1", [40, 20])


def test_the_best_calibration_is_kept_where_none_is_within_the_tolerance(trials):
    assert trials([0.3, 0.45, 0.4]) == (0.45, "1", [40, 20, 10])


def test_a_model_that_loses_too_much_stops_the_stage_or_is_told_where_nothing_is_deployed():
    lossy = replace(FOUND, int8_accuracy=0.4)
    with pytest.raises(UserError, match=r"a: accuracy falls from 0.500 to 0.400"):
        judge([FOUND, lossy], QuantizeConfig())
    assert "a: accuracy falls from 0.500 to 0.400" in judge([FOUND, lossy], QuantizeConfig(refuse=False))
    assert judge([FOUND], QuantizeConfig()) == "every INT8 model may go on"
