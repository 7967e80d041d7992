"""The space of a sweep: what a file may say, and how its values reach a stage's settings."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from adaptf.data.errors import DataError
from adaptf.errors import UserError
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.finetune import FinetuneConfig
from adaptf.mlproject.sweep import STAGES
from adaptf.mlproject.train import TrainConfig
from adaptf.pipeline.config import AugmentConfig
from adaptf.sweeps.space import SPACES, Space, read_space, space_of, suggested, values_in, with_values, words

CONFIGS = {"distill": DistillConfig(), "train": TrainConfig(), "finetune": FinetuneConfig()}


def space(text: str, config: Any = DistillConfig()) -> Space:
    return space_of(yaml.safe_load(text), config, name="mine.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_a_space_of_its_own_in_which_the_defaults_lie_where_they_can(stage: str) -> None:
    found = read_space("default", stage, CONFIGS[stage])
    assert len(found) == 3
    assert values_in(found, CONFIGS[stage])
    lines = (SPACES / f"{stage}.yaml").read_text().splitlines()[1:]
    optional = [line.removeprefix("# ") for line in lines if re.match(r"# \w+\.\w+:", line)]
    assert optional and space("\n".join(optional), CONFIGS[stage])


def test_a_space_holds_ranges_and_choices_of_the_fields_types() -> None:
    found = space(
        "loss.temperature: {low: 1, high: 8, log: true}\n"
        "augment.dir_p: {low: 0, high: 0.8, step: 0.1}\n"
        "optim.max_epochs: {low: 10, high: 30, step: 10}\n"
        "optim: {lr: {choices: [1e-3, 0.002]}, restart_factor: {choices: [1, 2]}}\n"
    )
    assert found == {
        "loss.temperature": FloatDistribution(1.0, 8.0, log=True),
        "augment.dir_p": FloatDistribution(0.0, 0.8, step=0.1),
        "optim.max_epochs": IntDistribution(10, 30, step=10),
        "optim.lr": CategoricalDistribution([0.001, 0.002]),
        "optim.restart_factor": CategoricalDistribution([1, 2]),
    }


@pytest.mark.parametrize(
    "text, told",
    [
        (
            "temperature: {low: 1, high: 8}",
            "temperature: there is no such field to search, the nearest are loss.temperature",
        ),
        ("loss.wieght: {low: 0.1, high: 0.5}", "the nearest are loss.weight"),
        ("train_run: {choices: [a, b]}", "train_run: there is no such field to search"),
        ("trainer.workers: {low: 0, high: 2}", "trainer.workers: there is no such field to search"),
        ("seeds: {choices: [[0], [1]]}", "seeds: there is no such field"),
        ("loss.weight: 0.5", "should hold low and high, or choices, got 0.5"),
        ("loss.weight: {low: 0.5}", "has no high"),
        ("loss.weight: {low: 0.5, high: 0.4}", "`low <= high` must hold, but got (low=0.5, high=0.4)"),
        ("loss.weight: {low: 0, high: 1, log: true}", "`low > 0` must hold for `log=True`"),
        ("loss.weight: {low: 0, high: 1, scale: log}", "'scale' is none of low, high, log, step, choices"),
        ("loss.weight: {low: little, high: 1}", "low should be a number, got 'little'"),
        (
            "loss.weight: {low: 0.1, high: 1, log: true, step: 0.1}",
            "`step` is not supported when `log` is true",
        ),
        ("loss.weight: {low: 0, high: 1, step: 0}", "`step > 0` must hold"),
        ("loss.weight: {low: 0, high: 1, log: maybe}", "log should be true or false, got 'maybe'"),
        ("loss.weight: {choices: [0.1]}", "choices should be a list of two values and more"),
        ("loss.weight: {choices: [0.1, 0.1]}", "has a choice twice"),
        ("loss.weight: {choices: [0.1, 0.2], low: 0}", "has choices and a range"),
        ("optim.max_epochs: {low: 1, high: 2.5}", "high should be a whole number, got 2.5"),
        ("loss.reduction: {low: 0, high: 1}", "is one of elements, clips, no number: give choices"),
        ("loss.reduction: {choices: [clips, batches]}", "is one of elements, clips, which 'batches' is not"),
        ("augment.dir_devices: {choices: [a, b]}", "augment.dir_devices: holds several values"),
        ("augment.dir_p_of: {low: 0, high: 1}", "augment.dir_p_of: holds several values"),
        ("augment.dir_p_of: {a: {low: 1, high: 0}}", "augment.dir_p_of.a: `low <= high` must hold"),
    ],
    ids=lambda value: "" if value.startswith(("low", "has", "is ")) else value[:30],
)
def test_a_mistake_is_named_with_what_would_be_right(text: str, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        space(text)


def test_a_field_that_is_left_to_the_student_can_be_searched() -> None:
    found = space("model.width: {choices: [16, 32]}\nmodel.dropout: {low: 0, high: 0.3}", TrainConfig())
    assert found == {
        "model.width": CategoricalDistribution([16, 32]),
        "model.dropout": FloatDistribution(0.0, 0.3),
    }


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DataError, match=r"(?s)2 problems in the space mine.yaml:.*loss.wait.*optim.rl"):
        space("loss.wait: {low: 0, high: 1}\noptim.rl: {low: 0, high: 1}")


@pytest.mark.parametrize(
    "text, told", [("[1", "not readable as YAML"), ("", "should hold fields"), ("- a", "should hold fields")]
)
def test_a_file_that_is_no_space_is_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"mine.yaml.*{told}"):
        read_space(str(tmp_path / "mine.yaml"), "distill", DistillConfig())


def test_values_reach_their_fields_and_no_others() -> None:
    values = {
        "loss.weight": 0.3,
        "augment.dir_p_of.a": 0.1,
        "augment.dir_p_of.b,c": 0.2,
        "optim.restart_factor": 1,
    }
    default = DistillConfig()
    expected = replace(
        default,
        loss=replace(default.loss, weight=0.3),
        augment=replace(default.augment, dir_p_of={"a": 0.1, "b,c": 0.2}),
        optim=replace(default.optim, restart_factor=1),
    )
    assert with_values(default, values) == expected


def test_a_grid_is_sampled_in_numbers_that_read_well() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = space("augment.dir_p: {low: 0, high: 0.8, step: 0.1}")
    drawn = {str(suggested(study.ask(), found)["augment.dir_p"]) for _ in range(40)}
    assert {len(value) for value in drawn} == {3} and len(drawn) > 5


@pytest.mark.parametrize(
    "augment, group, expected",
    [
        (AugmentConfig(dir_p=0.4), "a", 0.4),
        (AugmentConfig(dir_p=0.4), "b,c", 0.0),
        (AugmentConfig(dir_p=0.4), "a,b", None),
        (AugmentConfig(dir_p=0.4, dir_devices=()), "a,b", 0.4),
        (AugmentConfig(dir_p=0.4, dir_p_of={"b,c": 0.2}), "b,c", 0.2),
    ],
)
def test_a_group_of_devices_has_the_probability_that_all_of_it_have(
    augment: AugmentConfig, group: str, expected: float | None
) -> None:
    field = f"augment.dir_p_of.{group}"
    found = values_in({field: FloatDistribution(0.0, 0.8, step=0.1)}, TrainConfig(augment=augment))
    assert found == ({} if expected is None else {field: expected})


def test_names_of_trials_are_short() -> None:
    values = {
        "loss.temperature": 1.7004,
        "loss.weight": 0.0314159,
        "augment.dir_p": 0.2,
        "augment.dir_p_of.s1,s2": 0.0,
    }
    assert words(values) == "T=1.7 w=0.0314 DIR=0.2 DIR s1,s2=0"
