"""Logits that somebody has published: what is read of a file, whose they are, which doubts are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from adaptf.data.errors import DataError
from adaptf.data.published_logits import check_scenes, read_published_logits

SCENES = ("airport", "bus", "tram")
FILES = [f"audio/{scene}-paris-1-{clip}-a.wav" for clip in range(3) for scene in SCENES]
LOGITS = (
    np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    + 3 * np.eye(3, dtype=np.float32)[[0, 1, 2] * 3]
)


def write_table(path: Path, logits: NDArray[Any] = LOGITS, **changes: Any) -> Path:
    """`filename` and a column per scene."""
    table = pd.DataFrame(logits, columns=list(SCENES))
    table.insert(0, "filename", FILES[: len(table)])
    table.assign(**changes).to_csv(path, index=False, float_format="%.9g")
    return path


def write_names(path: Path, names: list[str] = FILES) -> Path:
    """As the challenge's lists: tab separated, beside the scene."""
    pd.DataFrame({"filename": names, "scene_label": "?"}).to_csv(path, index=False, sep="\t")
    return path


def write_npy(path: Path, logits: Any = LOGITS) -> Path:
    np.save(path, logits)
    return path


def write_pt(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def logits_of(file: Path, names: Path | None = None, scenes: tuple[str, ...] = ()) -> NDArray[np.float32]:
    return read_published_logits(file, names, scenes).of(FILES, SCENES)


def test_a_table_a_tensor_and_an_array_say_the_same(tmp_path: Path) -> None:
    names = write_names(tmp_path / "split25.csv")
    tensor = torch.from_numpy(LOGITS).requires_grad_()
    for file in (write_pt(tmp_path / "a.pt", tensor), write_npy(tmp_path / "a.npy")):
        np.testing.assert_array_equal(logits_of(file, names), LOGITS)
    np.testing.assert_allclose(logits_of(write_table(tmp_path / "a.csv")), LOGITS, rtol=1e-6)


def test_a_tensor_in_half_precision_is_read(tmp_path: Path) -> None:
    half = write_pt(tmp_path / "a.pt", torch.from_numpy(LOGITS).half())
    np.testing.assert_allclose(logits_of(half, write_names(tmp_path / "n.csv")), LOGITS, atol=5e-3)


def test_clips_are_found_by_name_in_any_order_and_the_others_are_left_aside(tmp_path: Path) -> None:
    file, names = write_npy(tmp_path / "a.npy"), write_names(tmp_path / "n.csv")
    found = read_published_logits(file, names, ())
    np.testing.assert_array_equal(found.of(FILES[:1:-2], SCENES), LOGITS[:1:-2])
    assert found.count == 9


@pytest.mark.parametrize("spelled", ["{}", "audio/{}", "{}.wav", "audio\\{}.wav", "./audio/{}.WAV"])
def test_audio_and_wav_may_be_left_out_of_names(spelled: str, tmp_path: Path) -> None:
    stems = [name.removeprefix("audio/").removesuffix(".wav") for name in FILES]
    names = write_names(tmp_path / "n.csv", [spelled.format(stem) for stem in stems])
    np.testing.assert_array_equal(logits_of(write_npy(tmp_path / "a.npy"), names), LOGITS)


def test_without_its_device_a_name_is_another(tmp_path: Path) -> None:
    names = write_names(tmp_path / "n.csv", [name.replace("-a.wav", ".wav") for name in FILES])
    with pytest.raises(
        DataError, match=r"(?s)9 problems in .*such as airport-paris-1-0.*-0-a.wav: no logits"
    ):
        logits_of(write_npy(tmp_path / "a.npy"), names)


def test_columns_come_in_the_order_of_the_datas_scenes(tmp_path: Path) -> None:
    names, turned = write_names(tmp_path / "n.csv"), LOGITS[:, [2, 0, 1]]
    file = write_npy(tmp_path / "a.npy", turned)
    np.testing.assert_array_equal(logits_of(file, names, ("tram", "airport", "bus")), LOGITS)
    found = read_published_logits(write_npy(tmp_path / "b.npy"), names, ())
    np.testing.assert_array_equal(found.of(FILES, ("tram", "airport", "bus")), turned)  # else alphabetical
    swapped = pd.read_csv(write_table(tmp_path / "a.csv"))[["tram", "filename", "bus", "airport"]]
    swapped.to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_allclose(logits_of(tmp_path / "a.csv"), LOGITS, rtol=1e-6)


def test_of_probabilities_the_logarithm_is_taken(tmp_path: Path) -> None:
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    shares[0] = (0, 1, 0)
    names = write_names(tmp_path / "n.csv")
    logits = logits_of(write_npy(tmp_path / "a.npy", shares.round(6)), names)
    centred, expected = (one[1:] - one[1:].mean(axis=1, keepdims=True) for one in (logits, LOGITS))
    np.testing.assert_allclose(centred, expected, atol=1e-3)
    assert logits[0, 1] == 0 and -17 < logits[0, 0] < -15


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([torch.ones(9, 3)], "holds a list, not one tensor"),
        (torch.ones(9), "of shape 9: .* should be clips x scenes"),
        (torch.ones(9, 3, dtype=torch.int64), "whole numbers"),
        (torch.ones(8, 3), "holds 8 rows, .*n.csv names 9 files"),
        (torch.ones(9, 2), "holds 2 columns, the data have the scenes airport, bus, tram"),
        (torch.full((9, 3), float("nan")), r"-0-a.wav: \(nan, nan, nan\) are no logits"),
        (torch.full((9, 3), 2.0), r"-0-a.wav: \(2, 2, 2\) are no logits"),
        (Path("x"), "PyTorch refuses to read it, because it names code"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(value: Any, said: str, tmp_path: Path) -> None:
    file = write_pt(tmp_path / "a.pt", value)
    with pytest.raises(DataError, match=f"(?s)a.pt.*{said}"):
        logits_of(file, write_names(tmp_path / "n.csv"))


def test_a_clip_that_is_missing_or_stands_twice_is_named(tmp_path: Path) -> None:
    file = write_npy(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"n.csv:\n  airport-paris-1-0-a stands there twice"):
        logits_of(file, write_names(tmp_path / "n.csv", [*FILES[:8], "airport-paris-1-0-a"]))
    with pytest.raises(DataError, match=r"tram-paris-1-2-a.wav: no logits"):
        logits_of(file, write_names(tmp_path / "n.csv", [*FILES[:8], "else.wav"]))
    with pytest.raises(DataError, match=r"a.csv:\n  airport-paris-1-0-a stands there twice"):
        logits_of(write_table(tmp_path / "a.csv", filename=[*FILES[:8], FILES[0]]))


def test_names_are_needed_by_a_tensor_alone(tmp_path: Path) -> None:
    names = write_names(tmp_path / "n.csv")
    with pytest.raises(DataError, match=r"a.npy does not say whose logits it holds: .*`names`"):
        logits_of(write_npy(tmp_path / "a.npy"))
    with pytest.raises(DataError, match=r"n.csv names no clips"):
        logits_of(write_npy(tmp_path / "a.npy"), write_names(tmp_path / "n.csv", []))
    write_names(names)
    table = write_table(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a.csv names its clips and scenes itself: leave out `names`"):
        logits_of(table, names)
    with pytest.raises(DataError, match=r"a.csv names its clips and scenes itself: leave out .*`scenes`"):
        logits_of(table, scenes=SCENES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metro": 0.0}, "holds 4 columns .airport, bus, tram, metro., the data have"),
        ({"tram": "loud"}, "could not convert string to float"),
    ],
)
def test_a_table_with_other_columns_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"a.csv.*{said}"):
        logits_of(write_table(tmp_path / "a.csv", **changes))


def test_another_kind_of_file_and_none_are_refused(tmp_path: Path) -> None:
    names = write_names(tmp_path / "n.csv")
    with pytest.raises(DataError, match=r"a.safetensors .*\.csv, \.npy, \.pt"):
        logits_of(tmp_path / "a.safetensors", names)
    for suffix in ("npy", "pt", "csv"):
        (tmp_path / f"a.{suffix}").unlink(missing_ok=True)
        with pytest.raises(DataError, match=rf"a.{suffix}"):
            logits_of(tmp_path / f"a.{suffix}", None if suffix == "csv" else names)
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a.npy"):
        logits_of(tmp_path / "a.npy", names)


TRUTH = np.array([0, 1, 2] * 3)


def test_the_right_order_is_taken(tmp_path: Path) -> None:
    assert check_scenes(LOGITS, TRUTH, SCENES, columns=SCENES, source="it") == pytest.approx(
        (LOGITS.argmax(axis=1) == TRUTH).mean()
    )


def test_columns_in_another_order_are_told_by_the_labels_with_the_order_that_they_look_like() -> None:
    """Given as tram, airport, bus and taken as alphabetical."""
    with pytest.raises(
        DataError,
        match=r"it: its columns were taken for airport, bus, tram and look like tram, airport, bus.*"
        r"100 %.* 0 %",
    ):
        check_scenes(4 * np.eye(3)[TRUTH][:, [2, 0, 1]], TRUTH, SCENES, columns=SCENES, source="it")


def test_two_scenes_in_each_others_place_are_told() -> None:
    ten = tuple("abcdefghij")
    truth = np.arange(100) % 10
    with pytest.raises(DataError, match=r"look like b, a, c, d, e, f, g, h, i, j"):
        check_scenes(np.eye(10)[truth][:, [1, 0, *range(2, 10)]], truth, ten, columns=ten, source="it")


def test_logits_of_other_clips_are_told_by_chance() -> None:
    random = np.random.default_rng(1)
    truth = np.arange(2000) % 10
    with pytest.raises(DataError, match=r"(9|10|11) % .*chance gives 10 %.*the list of names"):
        ten = tuple("abcdefghij")
        check_scenes(random.normal(size=(2000, 10)), truth, ten, columns=ten, source="it")
