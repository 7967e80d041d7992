"""Checkpoint files in the place of a run: a file, a folder, a mapping."""

import json
import os
from pathlib import Path

import pytest

from adaptf import paths
from adaptf.errors import UserError
from adaptf.tracking.checkpoint_files import as_value, digests_of, files_of, labels_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: models of a, s1 and unknown, and what else lies in a folder."""
    for name in ("a.ckpt", "s1.npz", "unknown.ckpt", ".hidden.ckpt", "README.md", "odd, name.ckpt"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).write_text(name)
    (tmp_path / "models" / "odd, name.ckpt").rename(tmp_path / "odd, name.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_folder_holds_a_model_per_device_by_its_name(folder: Path) -> None:
    models = folder / "models"
    expected = {"a": models / "a.ckpt", "s1": models / "s1.npz", "unknown": models / "unknown.ckpt"}
    for value in ("models", "~/models", str(models), "./models/"):
        assert files_of(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "{a: models/a.ckpt, unknown: ~/models/unknown.ckpt}",
        '{"a": "models/a.ckpt", "unknown": "models/unknown.ckpt"}',
        " {unknown: models/unknown.ckpt,\n a: models/a.ckpt}",
    ],
)
def test_a_mapping_names_a_file_per_device_counted_from_where_the_user_stands(
    value: str, folder: Path
) -> None:
    assert files_of(value) == {"a": folder / "models/a.ckpt", "unknown": folder / "models/unknown.ckpt"}


def test_names_that_yaml_takes_for_numbers_or_truth_values_stay_names(folder: Path) -> None:
    files = files_of("{1: models/a.ckpt, no: models/a.ckpt, 1e3: models/a.ckpt, unknown: models/a.ckpt}")
    assert list(files) == ["1", "no", "1e3", "unknown"]


def test_one_file_is_the_model_of_every_device_and_may_hold_a_comma(folder: Path) -> None:
    assert files_of("models/a.ckpt") == {"unknown": folder / "models/a.ckpt"}
    assert files_of("odd, name.ckpt") == {"unknown": folder / "odd, name.ckpt"}


@pytest.mark.parametrize("value", ["models", "{Gera\u0308t: models/a.ckpt, unknown: models/a.ckpt}"])
def test_a_devices_name_is_as_the_data_has_it(value: str, folder: Path) -> None:
    (folder / "models/Gera\u0308t.ckpt").touch()
    assert "Ger\u00e4t" in files_of(value)


def test_names_of_files_look_the_same_in_either_form_of_their_accents(folder: Path) -> None:
    (folder / "Gera\u0308t.ckpt").touch()
    for value in ("Ger\u00e4t.ckpt", "{unknown: Ger\u00e4t.ckpt}"):
        assert files_of(value) == {"unknown": folder / "Gera\u0308t.ckpt"}


def test_endings_count_in_capitals_too_and_folders_below_hold_no_models(folder: Path) -> None:
    (folder / "models/a.ckpt").rename(folder / "models/B.CKPT")
    (folder / "models/s1.npz").rename(folder / "models/s1.NPZ")
    (folder / "models/old").mkdir()
    (folder / "models/old/c.ckpt").touch()
    assert list(files_of("models")) == ["B", "s1", "unknown"]


def test_a_folder_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"the folder .*/models may not be read \(Permission denied\)"):
        files_of("models")


def test_where_the_users_folder_is_not_known_absolute_paths_alone_are_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "user_folder", lambda: None)
    assert files_of(str(folder / "models/a.ckpt")) == files_of(f"{{unknown: {folder}/models/a.ckpt}}")
    assert files_of("models") == files_of("0123abcd") == {}
    with pytest.raises(UserError, match=r"the file of a is 'a\.ckpt', a relative path"):
        files_of("{a: a.ckpt, unknown: a.ckpt}")


def test_ids_of_runs_are_no_files_however_many(folder: Path) -> None:
    for value in ("0123456789abcdef" * 2, ",".join(["0123456789abcdef" * 2] * 20), "latest", ""):
        assert files_of(value) == {} == digests_of(value)


def test_a_value_is_read_again_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models" / "ö😀.ckpt").write_text("")
    files = files_of("models")
    monkeypatch.chdir("/")
    assert files_of(as_value(files)) == files


def test_digest_and_label_tell_the_content(folder: Path) -> None:
    before = digests_of("models")
    assert labels_of("models")["a"] == f"file a.ckpt (sha256 {before['a']})"
    (folder / "models/a.ckpt").write_text("other")
    assert [device for device, digest in digests_of("models").items() if digest != before[device]] == ["a"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "{a: models/a.ckpt}",
            "has models for a and none for 'unknown', which answers for every other device",
        ),
        ("{a: nowhere.ckpt, unknown: models/a.ckpt}", "names files that are not there: .*/nowhere.ckpt of a"),
        ("{a: models, unknown: models/a.ckpt}", "names files that are not there: .*/models of a"),
        ("{a: models/a.ckpt, a: models/a.ckpt, unknown: models/a.ckpt}", "names a device twice"),
        ("{\u00e4: models/a.ckpt, a\u0308: models/a.ckpt, unknown: models/a.ckpt}", "names a device twice"),
        (
            "{a: ~nobody-of-this-name/a.ckpt, unknown: models/a.ckpt}",
            "there is no home folder of ~nobody-of-this-name",
        ),
        ("{a:models/a.ckpt}", "is no mapping of devices to checkpoint files such as"),
        ("{a: [models/a.ckpt]}", "is no mapping of devices"),
        ("{a: models/a.ckpt", "is no mapping of devices"),
        ("{}", "is no mapping of devices"),
        (".", "is a folder without a checkpoint file"),
    ],
)
def test_what_has_no_model_for_each_device_is_refused(value: str, message: str, folder: Path) -> None:
    (folder / "odd, name.ckpt").unlink()
    with pytest.raises(UserError, match=message):
        files_of(value)


def test_a_folder_with_two_files_of_a_device_is_refused(folder: Path) -> None:
    (folder / "models" / "a.npz").write_text("")
    with pytest.raises(UserError, match=r"two files of one device: a.ckpt, a.npz"):
        files_of("models")


def test_the_value_of_a_mapping_is_json(folder: Path) -> None:
    assert json.loads(as_value(files_of("models")))["a"] == str(folder / "models/a.ckpt")
