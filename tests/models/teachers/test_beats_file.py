import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptf.models.teachers.beats_file import FINETUNED_FILE, PRETRAINED_FILE, BeatsFileError, load_beats

CHECKPOINT = Path(__file__).parents[2] / "golden" / "beats_tiny.pt"


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    content: dict[str, Any] = torch.load(CHECKPOINT, weights_only=True)
    return content


@pytest.fixture
def pretrained(checkpoint: dict[str, Any], write_beats_file: Callable[..., Path], tmp_path: Path) -> Path:
    return write_beats_file(tmp_path / "pretrained.pt", checkpoint["cfg"])


@pytest.fixture
def finetuned(checkpoint: dict[str, Any], write_beats_file: Callable[..., Path], tmp_path: Path) -> Path:
    return write_beats_file(tmp_path / "finetuned.pt", checkpoint["cfg"], finetuned=True)


# Both kinds of model


def test_the_old_predictor_of_a_fine_tuned_file_is_dropped(pretrained: Path, finetuned: Path) -> None:
    expected, encoder = load_beats(pretrained).eval(), load_beats(finetuned).eval()
    assert encoder.cfg == expected.cfg
    features = torch.randn(1, 1, 128, 98, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(features), expected(features), atol=0, rtol=0)


@pytest.mark.parametrize("wanted", [None, False])
def test_a_model_that_was_pre_trained_only_is_read_where_one_is_wanted(
    pretrained: Path, wanted: bool | None
) -> None:
    assert load_beats(pretrained, finetuned=wanted).dim == 48


@pytest.mark.parametrize("wanted", [None, True])
def test_a_fine_tuned_model_is_read_where_one_is_wanted(finetuned: Path, wanted: bool | None) -> None:
    assert load_beats(finetuned, finetuned=wanted).dim == 48


def test_a_file_without_a_word_on_its_kind_is_pre_trained_only(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    del checkpoint["cfg"]["finetuned_model"]
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    assert load_beats(tmp_path / "BEATs.pt", finetuned=False).dim == 48


def test_a_fine_tuned_model_where_none_is_wanted_is_refused_with_the_right_file(finetuned: Path) -> None:
    message = refusal(finetuned, finetuned=False)
    assert (
        f"fine-tuned on labels, which is the kind of file for ssl_sl, but ssl and ssl_frozen take "
        f"{PRETRAINED_FILE}" in message
    )


def test_a_pre_trained_model_where_a_fine_tuned_one_is_wanted_is_refused_with_the_right_file(
    pretrained: Path,
) -> None:
    expected = (
        "pre-trained only, which is the kind of file for ssl and ssl_frozen, but ssl_sl takes "
        f"{FINETUNED_FILE}"
    )
    assert expected in refusal(pretrained, finetuned=True)


def test_weights_of_a_predictor_tell_a_fine_tuned_model_whose_settings_do_not(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint["model"] |= {"predictor.weight": torch.zeros(527, 48), "predictor.bias": torch.zeros(527)}
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    assert "fine-tuned on labels" in refusal(tmp_path / "BEATs.pt", finetuned=False)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [({"quant_n": 1024}, {}), ({}, {"quantize.embedding.weight": torch.zeros(1024, 256)})],
)
@pytest.mark.parametrize("wanted", [{}, {"finetuned": True}, {"finetuned": False}])
def test_a_tokenizer_is_called_what_it_is(
    checkpoint: dict[str, Any],
    settings: dict[str, Any],
    weights: dict[str, Any],
    wanted: dict[str, bool],
    tmp_path: Path,
) -> None:
    torch.save(
        {"cfg": checkpoint["cfg"] | settings, "model": checkpoint["model"] | weights}, tmp_path / "BEATs.pt"
    )
    assert "it is a BEATs tokenizer" in refusal(tmp_path / "BEATs.pt", **wanted)


def test_a_random_file_has_the_names_and_shapes_of_a_published_one(
    checkpoint: dict[str, Any], pretrained: Path
) -> None:
    written = torch.load(pretrained, weights_only=True)["model"]
    assert {name: weight.shape for name, weight in written.items()} == {
        name: weight.shape for name, weight in checkpoint["model"].items()
    }


# Files that are no BEATs checkpoint


def refusal(path: Path, **wanted: bool) -> str:
    """The message of the error, after checking what every one of them says."""
    with pytest.raises(BeatsFileError) as caught:
        load_beats(path, **wanted)
    message = str(caught.value)
    assert repr(str(path)) in message
    for origin in (
        "microsoft/unilm",
        "BEATs_iter3_plus_AS2M.pt",
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
    ):
        assert origin in message
    assert "local path" in message
    return message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "BEATs.pt")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert "it is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"<!DOCTYPE html><title>Not found</title>", b"\x89PNG" + bytes(900)]
)
def test_a_file_of_another_program_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(content)
    assert f"not written by torch.save (it begins with {content[:8]!r})" in refusal(path)


@pytest.mark.parametrize("kept_bytes", [4, 100, 5000, 142_000, -1])
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_was_cut_off_is_refused(kept_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(CHECKPOINT.read_bytes()[:kept_bytes])
    assert "cut off or damaged" in refusal(path)


def test_a_file_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    content = bytearray(CHECKPOINT.read_bytes())
    content[150_000:150_100] = bytes(100)
    path = tmp_path / "BEATs.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert "cut off or damaged" in message and "bad checksum of" in message


class Trap:
    """Unpickled without a check it writes a file, as a stranger's checkpoint could write any."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (f"open({str(self.sprung)!r}, 'w').close()",)


def as_plain_pickle(trap: Trap) -> bytes:
    return pickle.dumps({"cfg": {}, "model": trap})


def as_old_pickle(trap: Trap) -> bytes:
    return pickle.dumps({"cfg": {}, "model": trap}, protocol=2)


def as_torch_file(trap: Trap, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save({"cfg": {}, "model": trap}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def as_old_torch_file(trap: Trap) -> bytes:
    return as_torch_file(trap, zipped=False)


@pytest.mark.parametrize("write", [as_plain_pickle, as_old_pickle, as_torch_file, as_old_torch_file])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(
    write: Callable[[Trap], bytes], tmp_path: Path
) -> None:
    path, sprung = tmp_path / "BEATs.pt", tmp_path / "sprung"
    path.write_bytes(write(Trap(sprung)))
    message = refusal(path)
    assert not sprung.exists()
    assert "PyTorch refuses to read it" in message and "could run code; nothing in it was run" in message


def test_the_trap_of_these_tests_works_where_nothing_checks(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    pickle.loads(as_plain_pickle(Trap(sprung)))
    assert sprung.exists()


def test_the_refusal_names_the_code_and_hides_pytorchs_advice_to_skip_the_check(tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(as_torch_file(Trap(tmp_path / "sprung")))
    with pytest.raises(BeatsFileError, match=r"names code .*exec") as caught:
        load_beats(path)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.zeros(3), "is a Tensor"),
        ([1, 2], "is a list"),
        ({}, "holds nothing"),
        ({"state_dict": {}, "epoch": 3}, "holds 'state_dict', 'epoch'"),
        ({"cfg": {}}, "holds 'cfg'"),
        ({"cfg": None, "model": {}}, "two dicts named 'cfg' and 'model'"),
        ({"cfg": {}, "model": [1]}, "two dicts named 'cfg' and 'model'"),
    ],
)
def test_a_file_without_settings_and_weights_is_refused(content: Any, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "BEATs.pt")
    assert expected in refusal(tmp_path / "BEATs.pt")


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_attention_heads": 5},
        {"encoder_layers": "two"},
        {"activation_fn": "sine"},
        {"layer_norm_first": True, "encoder_layers": 0},
        {"embed_dim": -1},
    ],
)
def test_settings_of_no_beats_network_are_refused(
    checkpoint: dict[str, Any], wrong: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint["cfg"] |= wrong
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    assert "its cfg describes no BEATs network" in refusal(tmp_path / "BEATs.pt")


def without_a_bias(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: weight for name, weight in weights.items() if name != "layer_norm.bias"}


def with_another_weight(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"decoder.weight": torch.zeros(2)}


def with_another_shape(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"layer_norm.bias": torch.zeros(33)}


def with_a_number(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"layer_norm.bias": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_a_bias, "layer_norm.bias"),
        (with_another_weight, "decoder.weight"),
        (with_another_shape, "[33]"),
        (with_a_number, "layer_norm.bias"),
    ],
)
def test_weights_of_another_network_are_refused_with_their_name(
    checkpoint: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], named: str, tmp_path: Path
) -> None:
    checkpoint["model"] = change(checkpoint["model"])
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    message = refusal(tmp_path / "BEATs.pt")
    assert "do not fit the network of its cfg" in message and named in message
