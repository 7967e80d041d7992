"""The command lines of MLproject, presets, and what a user's mistakes end with."""

import dataclasses
import importlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from docstring_parser import parse_from_object

from adaptf import paths
from adaptf.mlproject.finetune import FinetuneConfig, FinetuneDeviceConfig
from adaptf.mlproject.prepare import PrepareConfig
from adaptf.mlproject.train import TrainConfig
from adaptf.pipeline.command_line import PRESETS, flatten, parse, preset_names, shared_leaves
from adaptf.pipeline.config import PRESET_SECTIONS, PRESET_VALUES, settings

PROJECT = Path(__file__).parents[2] / "MLproject"
ENTRY_POINTS: dict[str, dict[str, Any]] = yaml.safe_load(PROJECT.read_text())["entry_points"]
REQUIRED = {
    "files": "/some folder/files.csv",
    "device": "s1",
    "model": "models:/adaptf-s1@production",
    "runs": "a1,b2",
    "label": "Doe_UNI",
}
WITH_PRESET = [name for name, entry_point in ENTRY_POINTS.items() if "preset" in entry_point["parameters"]]
SHARING = ("main", "sweep")
"""Stages that hand their sections to others."""
SHARED = ("mel.bands", "model.width", "trainer.accelerator", "seed")
Write = Callable[[str], str]


def module_of(stage: str) -> ModuleType:
    return importlib.import_module(f"adaptf.mlproject.{stage}")


def config_class(stage: str) -> type:
    found: type = getattr(module_of(stage), f"{stage.capitalize()}Config")
    return found


def rendered(stage: str, **given: str) -> list[str]:
    """The words of an entry point's command, as MLflow would have a shell split them."""
    parameters = ENTRY_POINTS[stage]["parameters"]
    values = {name: given.get(name, parameter.get("default")) for name, parameter in parameters.items()}
    return shlex.split(
        ENTRY_POINTS[stage]["command"].format(**{name: shlex.quote(str(v)) for name, v in values.items()})
    )


def parsed(stage: str, *arguments: str) -> Any:
    return parse(config_class(stage), stage=stage, arguments=arguments)


def message_of(capsys: pytest.CaptureFixture[str], stage: str, *arguments: str) -> str:
    """The error that a command line ends with, without the usage before it."""
    with pytest.raises(SystemExit) as ended:
        parsed(stage, *arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.rpartition("error:")[2]


@pytest.fixture
def preset(tmp_path: Path) -> Write:
    """Writes a preset file and returns the argument that names it."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return f"--preset={tmp_path / 'mine.yaml'}"

    return write


@pytest.mark.slow
@pytest.mark.parametrize("stage", ENTRY_POINTS)
def test_each_entry_points_command_parses_with_its_parameters(stage: str) -> None:
    program, *arguments = rendered(stage, **REQUIRED)[2:]
    assert program == f"adaptf.mlproject.{stage}"
    required = {name: value for name, value in REQUIRED.items() if name in ENTRY_POINTS[stage]["parameters"]}
    assert parsed(stage, *arguments) == dataclasses.replace(config_class(stage)(), **required)


@pytest.mark.parametrize("stage", ENTRY_POINTS)
def test_each_parameter_is_a_field_of_the_stage_and_is_in_its_command(stage: str) -> None:
    fields = {field.name for field in dataclasses.fields(config_class(stage))} | {"preset"}
    for name in ENTRY_POINTS[stage]["parameters"]:
        assert "." not in name  # MLflow would find no such name in a command
        assert name in fields
        assert f"--{name} {{{name}}}" in ENTRY_POINTS[stage]["command"]


@pytest.mark.parametrize("stage", ENTRY_POINTS)
def test_each_field_that_names_an_upstream_run_is_a_parameter(stage: str) -> None:
    upstream = {field.name for field in dataclasses.fields(config_class(stage)) if "stage" in field.metadata}
    assert upstream <= set(ENTRY_POINTS[stage]["parameters"])


@pytest.mark.parametrize("stage", ENTRY_POINTS)
def test_defaults_of_parameters_are_those_of_the_fields(stage: str) -> None:
    defaults = dataclasses.asdict(config_class(stage)()) | {"preset": "default"}
    parameters = ENTRY_POINTS[stage]["parameters"].items()
    given = {name: parameter["default"] for name, parameter in parameters if "default" in parameter}
    assert given == {name: defaults[name] for name in given}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ENTRY_POINTS)
def test_the_default_preset_changes_nothing(stage: str) -> None:
    assert parsed(stage, "--preset", "default") == parsed(stage) == config_class(stage)()


@pytest.mark.slow
@pytest.mark.parametrize("preset_name", preset_names())
@pytest.mark.parametrize("stage", WITH_PRESET)
def test_a_preset_changes_only_what_it_says(stage: str, preset_name: str) -> None:
    text = (PRESETS / f"{preset_name}.yaml").read_text()
    given = flatten(yaml.safe_load(text) or {})
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    defaults = flatten(dataclasses.asdict(config_class(stage)()))
    if stage in SHARING:
        links = shared_leaves(config_class(stage))
        expected = said | {target: said[source] for source, target in links if source in said}
        expected = {name: value for name, value in expected.items() if stage == "main" or name in defaults}
    else:
        own = {
            name.removeprefix(f"{stage}."): value
            for name, value in said.items()
            if name.startswith(f"{stage}.")
        }
        expected = {name: value for name, value in said.items() if name in defaults} | own
    assert flatten(dataclasses.asdict(parsed(stage, "--preset", preset_name))) == defaults | expected


def test_a_preset_holds_the_sections_of_main_and_no_runs() -> None:
    fields = dataclasses.fields(config_class("main"))
    held = {field.name for field in fields if "stage" not in field.metadata}
    assert {*PRESET_SECTIONS, *PRESET_VALUES, *ENTRY_POINTS} >= held
    assert dataclasses.asdict(config_class("main")()).keys() >= {*PRESET_SECTIONS, *PRESET_VALUES}


@pytest.mark.slow
def test_a_preset_has_the_same_effect_in_main_and_in_the_stage_alone() -> None:
    whole = parsed("main", "--preset", "demo")
    for stage in (name for name in WITH_PRESET if name not in (*SHARING, "prepare")):
        assert getattr(whole, stage) == parsed(stage, "--preset", "demo")


def test_a_dotted_field_changes_that_field_alone() -> None:
    default = TrainConfig()
    assert parsed("train", "--optim.lr", "0.002") == dataclasses.replace(
        default, optim=dataclasses.replace(default.optim, lr=0.002)
    )


def test_a_field_given_wins_over_the_preset() -> None:
    assert parsed("train", "--preset", "demo", "--model.width", "48").model.width == 48
    assert parsed("train", "--model.width", "48", "--preset=demo").model.width == 48


PATHS = {
    "prepare": ["data.root", "data.cache"],
    "teacher": ["beats_ssl_file", "beats_ssl_sl_file", "augment.dir_folder", "frozen.augment.dir_folder"],
    "main": [
        "data.root",
        "data.cache",
        "audioset.root",
        "teacher.beats_ssl_file",
        "train.augment.dir_folder",
        "predict.files",
    ],
    "sweep": ["distill.augment.dir_folder"],
    "predict": ["files"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, field", [(stage, field) for stage, fields in PATHS.items() for field in fields]
)
def test_paths_count_from_where_the_user_stands(
    stage: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "user_folder", lambda: tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for value, meant in (("c", f"{tmp_path}/c"), ("~/c", "/home/me/c"), ("/c", "/c"), ("none", "none")):
        assert settings(parsed(stage, f"--{field}", value))[field] == meant
    with pytest.raises(SystemExit):
        parsed(stage, f"--{field}", "s3://bucket/c")


def test_paths_in_a_preset_count_from_where_the_user_stands(
    tmp_path: Path, preset: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "user_folder", lambda: tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for stage in ("prepare", "main"):
        data = parsed(stage, preset("data: {root: recordings, cache: ~/c}\n")).data
        assert (data.root, data.cache) == (str(tmp_path / "recordings"), "/home/me/c")


@pytest.mark.slow
def test_files_in_the_place_of_runs_and_presets_count_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "user_folder", lambda: tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        (tmp_path / name).touch()
    (tmp_path / "mine.yaml").write_text("train:\n  optim: {lr: 0.5}\n")
    assert parsed("train", "--preset", "mine.yaml", "--pretrain_run", "a.ckpt").pretrain_run == str(
        tmp_path / "a.ckpt"
    )
    assert parsed("train", "--preset", "mine.yaml").optim.lr == 0.5
    assert parsed("compare", "--runs", "a.ckpt,0123abcd").runs == f"{tmp_path / 'a.ckpt'},0123abcd"
    for teachers in ("12,34", ",".join(["0123456789abcdef" * 2] * 8)):
        assert parsed("distill", "--train_run", "latest", "--teacher_runs", teachers).teacher_runs == teachers
    for field in ("pretrain_run", "train_run", "distill_run"):
        assert getattr(parsed("sweep", f"--{field}", "a.ckpt"), field) == str(tmp_path / "a.ckpt")
    assert (
        parsed("sweep", "--sweep.storage", "sqlite:///s.db").sweep.storage == f"sqlite:///{tmp_path / 's.db'}"
    )


def test_names_on_the_command_line_are_tidied() -> None:
    assert parsed("train", "--augment.dir_devices", "[' Gera\u0308t', 'b ']").augment.dir_devices == (
        "Ger\u00e4t",
        "b",
    )
    assert parsed("finetune", "--devices=Gera\u0308t,\u00a0b").devices == ("Ger\u00e4t", "b")
    assert parsed("train", "--augment.dir_p_of", "{'Gera\u0308t ': 0.5}").augment.dir_p_of == {
        "Ger\u00e4t": 0.5
    }
    assert parsed("promote", "--device", " Gera\u0308t").device == "Ger\u00e4t"


def test_a_list_is_given_in_brackets() -> None:
    assert parsed("train", "--augment.dir_devices", "[a, b]").augment.dir_devices == ("a", "b")


@pytest.mark.parametrize(
    "given", [["--seeds", "0,1,2"], ["--seeds=0,1,2"], ["--seeds", "[0,1,2]"], ["--seeds=[0, 1, 2]"]]
)
def test_a_list_may_be_values_separated_by_commas(given: list[str]) -> None:
    assert parsed("train", *given).seeds == (0, 1, 2)
    assert parsed("train", *given, "--augment.dir_devices", "a,b").augment.dir_devices == ("a", "b")


def test_a_list_of_one_value_is_that_value() -> None:
    assert parsed("finetune", "--devices", "a").devices == ("a",)
    assert parsed("teacher", "--optim.betas", "0.9,0.95").optim.betas == (0.9, 0.95)


def test_a_preset_file_of_the_users_own_takes_effect(preset: Write) -> None:
    argument = preset("seed: 3\ntrain:\n  optim: {lr: 0.5}\n")
    assert parsed("train", argument).optim.lr == 0.5
    assert parsed("train", argument).seed == 3
    assert parsed("distill", argument).optim == config_class("distill")().optim


@pytest.mark.parametrize(
    "name, value", [("mel.bands", 64), ("model.width", 8), ("trainer.accelerator", "cpu"), ("seed", 7)]
)
def test_in_main_a_shared_setting_reaches_every_stage_that_has_it(name: str, value: Any) -> None:
    config = flatten(dataclasses.asdict(parsed("main", f"--{name}", str(value))))
    holders = [
        stage
        for stage in ENTRY_POINTS
        if stage not in SHARING and name in flatten(dataclasses.asdict(config_class(stage)()))
    ]
    assert len(holders) >= 2
    assert {stage: config[f"{stage}.{name}"] for stage in holders} == dict.fromkeys(holders, value)


@pytest.mark.parametrize("name", SHARED)
def test_in_main_a_shared_setting_cannot_be_given_for_one_stage(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"train.{name}" in message_of(
        capsys, "main", f"--train.{name}", "cpu" if name.endswith("accelerator") else "5"
    )


@pytest.mark.parametrize("stage", ["train", "main"])
def test_an_unknown_field_is_named(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--optim.rl" in message_of(capsys, stage, "--optim.rl", "0.1")


def test_a_wrong_type_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    message = message_of(capsys, "train", "--optim.lr", "quick")
    assert "optim.lr" in message and "float" in message and "quick" in message


def test_a_value_that_is_no_choice_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ssl_frozen" in message_of(capsys, "teacher", "--kind", "wav2vec")


def test_an_unknown_preset_is_named_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    message = message_of(capsys, "train", "--preset", "papre")
    assert "'papre'" in message and all(name in message for name in preset_names())


@pytest.mark.parametrize("stage", ["train", "main"])
@pytest.mark.parametrize(
    "text, named",
    [
        ("train:\n  optim: {rl: 1}\n", "optim.rl"),
        ("mel: {band: 64}\n", "mel.band"),
        ("trian:\n  optim: {lr: 1}\n", "trian"),
        ("train:\n  optim: {lr: quick}\n", "quick"),
        ("train: 5\n", "train"),
        ("train:\n  optim: 5\n", "optim"),
        ("- mel\n", "list"),
        ("mel: [\n", "YAML"),
    ],
    ids=[
        "field",
        "shared field",
        "section",
        "type",
        "number for a stage",
        "number for a section",
        "list",
        "no YAML",
    ],
)
def test_a_mistake_in_a_preset_file_is_named(
    stage: str, text: str, named: str, preset: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in message_of(capsys, stage, preset(text))


def test_in_main_a_preset_cannot_give_a_shared_setting_to_one_stage(
    preset: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "train.mel.bands" in message_of(capsys, "main", preset("train:\n  mel: {bands: 64}\n"))


def test_a_shortened_preset_option_is_refused_or_works(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        config = parsed("train", "--pres", "demo")
    except SystemExit:
        assert "--pres" in capsys.readouterr().err
    else:
        assert config == parsed("train", "--preset", "demo")


def leaves_and_texts(config: type) -> Iterator[tuple[str, str]]:
    """Every field that is no section, with the text below it."""
    found = [
        parameter for base in reversed(config.__mro__[:-1]) for parameter in parse_from_object(base).params
    ]
    texts = {parameter.arg_name: parameter.description or "" for parameter in found}
    default = config()
    for field in dataclasses.fields(config):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves_and_texts(type(value))
        else:
            yield f"{config.__name__}.{field.name}", texts.get(field.name, "")


@pytest.mark.parametrize(
    "config", [*map(config_class, ENTRY_POINTS), FinetuneDeviceConfig], ids=lambda c: c.__name__
)
def test_every_field_has_a_help_text(config: type) -> None:
    assert (config.__doc__ or "").strip()
    assert [name for name, text in leaves_and_texts(config) if not text.strip()] == []


def test_help_shows_the_texts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("train", "--help")
    assert ended.value.code == 0
    assert "Learning rate at the start of each cosine." in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--download"], ["--download", "--data.root=x"], ["--download=true"], ["--download", "true"]],
)
def test_a_switch_needs_no_value(arguments: list[str]) -> None:
    assert parse(PrepareConfig, stage="prepare", arguments=arguments).download
    assert not parse(PrepareConfig, stage="prepare", arguments=["--download", "false"]).download


@pytest.mark.parametrize("text", ['{b: 0.1, "s1,s2": 0.2}', '{"b": 0.1, "s1,s2": 0.2}'])
def test_probabilities_of_devices_come_from_the_command_line_and_from_presets(
    text: str, preset: Write
) -> None:
    wanted = {"b": 0.1, "s1,s2": 0.2}
    assert parsed("distill", "--augment.dir_p_of", text).augment.dir_p_of == wanted
    assert parsed("distill", f"--augment.dir_p_of={text}").augment.dir_p_of == wanted
    from_preset = preset(f"distill:\n  augment:\n    dir_p_of: {text}\n")
    assert parsed("distill", from_preset).augment.dir_p_of == wanted
    assert parsed("main", from_preset).distill.augment.dir_p_of == wanted
    assert parsed("distill").augment.dir_p_of == {}


def test_a_probability_of_a_device_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "dir_p_of" in message_of(capsys, "distill", "--augment.dir_p_of", "{b: often}")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("1,no,null", ("1", "no", "null")),
        ("100%,O'Neil, l/r: x", ("100%", "O'Neil", "l/r: x")),
        ('"a,b",c', ("a,b", "c")),
        ('["a,b"]', ("a,b",)),
        ("", ()),
    ],
)
def test_names_in_a_list_are_names_whatever_yaml_takes_them_for(given: str, meant: tuple[str, ...]) -> None:
    assert parse(FinetuneConfig, stage="finetune", arguments=[f"--devices={given}"]).devices == meant
