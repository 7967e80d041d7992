from typing import Any

import pytest
import torch

from adaptf.compression.complexity import measure_complexity
from adaptf.models.checkpoint import initialise_from, save_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.models.students.cp_mobile import CpMobile

BASELINE_FRAMES, OUR_FRAMES = 65, 64


def test_without_settings_it_has_the_figures_of_the_challenges_baseline():
    found = measure_complexity(CpMobile(classes=10), bands=256, frames=BASELINE_FRAMES)
    assert (found.parameters, found.macs) == (61_148, 29_419_156)


def test_with_our_log_mel_it_takes_fewer_operations():
    found = measure_complexity(CpMobile(classes=10), bands=256, frames=OUR_FRAMES)
    assert (found.parameters, found.macs) == (61_148, 26_954_388)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 36}, "multiple of 8, got 36"),
        ({"width": 0}, "multiple of 8, got 0"),
        ({"expansion": 0.5}, "1 or more, got 1.8 and 0.5"),
    ],
)
def test_impossible_sizes_are_refused_with_the_value(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        CpMobile(classes=10, **settings)


def test_a_start_from_other_classes_takes_all_but_the_classifier_and_its_normalization(tmp_path):
    def described(*classes: str) -> ModelDescription:
        return ModelDescription("cp_mobile", classes, {"bands": 64}, {"width": 8})

    pretrained = build_classifier(described("dog", "rain", "bell"))
    path = save_classifier(pretrained, tmp_path / "pretrained.ckpt", epoch=0)
    scenes = build_classifier(described("bus", "park"))
    loaded = initialise_from(scenes, path)
    assert {name.split(".")[0] for name in loaded.left_out} == {"classifier"}
    assert torch.equal(scenes.network.stem[0].conv.weight, pretrained.network.stem[0].conv.weight)
    assert scenes(torch.zeros(2, 32_000)).shape == (2, 2)
