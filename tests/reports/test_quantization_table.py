"""What is told of INT8 models."""

from dataclasses import replace

import pytest
from fixtures.quantized import FOUND

from adaptf.reports.quantization_table import quantization_line, quantization_table


def test_the_table_has_both_forms_and_a_model_without_the_faster_one_has_gaps():
    table = quantization_table([FOUND, replace(FOUND, device="a", openvino=None)])
    assert list(table["OpenVINO ms"].isna()) == [False, True]
    assert table.loc["s1", "OpenVINO same scene"] == pytest.approx(99.8)
    assert table.loc["s1", "served bytes"] == 126_868
    assert (table["frames"] == 64).all()
    assert "no OpenVINO form" in quantization_line(replace(FOUND, openvino=None))
