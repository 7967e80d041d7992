"""The file of a BEATs checkpoint: read without running any code in it, and checked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptf.errors import UserError
from adaptf.models.teachers.beats import BeatsClassifier, BeatsEncoder
from adaptf.models.torch_file import UnreadableFile, brief, check_finite, read_torch_file

PRETRAINED_FILE = "BEATs_iter3_plus_AS2M.pt"
FINETUNED_FILE = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
_WHERE_FROM = (
    "BEATs checkpoints come from the beats folder of the repository microsoft/unilm on GitHub: "
    f"{PRETRAINED_FILE} (SSL and SSL*) and {FINETUNED_FILE} (SSL+SL). "
    "The download links die often: get the file once, keep it, and give its local path."
)
_PREDICTOR, _QUANTIZER = "predictor.", "quantize."
"""What the names of weights begin with that only a fine-tuned model, or only a tokenizer, has."""
_BAD_CONTENT = (ArithmeticError, AssertionError, AttributeError, RuntimeError, TypeError, ValueError)
"""What speechbrain and PyTorch raise over settings that describe no network, or weights of another one."""


class BeatsFileError(UserError):
    """A file that is no BEATs checkpoint: the message says which, what is wrong, and where to get one."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"BEATs file {str(path)!r}: {problem}. {_WHERE_FROM}")


def load_beats(path: str | os.PathLike[str], *, finetuned: bool | None = None) -> BeatsEncoder:
    """The encoder of a BEATs checkpoint file, on the CPU; the predictor of a fine-tuned one is dropped.

    `finetuned`: whether it should be one that was fine-tuned on AudioSet's labels, or one that was
    pre-trained only; None takes either. Raises BeatsFileError where the file is absent, damaged, of another
    kind, or holds weights of other shapes. No code in the file is run.
    """
    path = Path(path)
    cfg, weights = _cfg_and_weights(path, _read(path))
    try:
        check_finite(weights)
    except UnreadableFile as error:
        raise BeatsFileError(path, str(error)) from None
    _check_kind(path, cfg, weights, finetuned)
    weights = {name: weight for name, weight in weights.items() if not str(name).startswith(_PREDICTOR)}
    try:
        encoder = BeatsEncoder(cfg)
    except _BAD_CONTENT as error:
        raise BeatsFileError(path, f"its cfg describes no BEATs network ({brief(error)})") from error
    try:
        encoder.load_state_dict(weights)
    except _BAD_CONTENT as error:
        raise BeatsFileError(
            path, f"its weights do not fit the network of its cfg ({brief(error)})"
        ) from error
    return encoder


def beats_from_file(
    path: str | os.PathLike[str], *, classes: int, finetuned: bool, freeze_encoder: bool = False
) -> BeatsClassifier:
    """The encoder of a checkpoint file behind a new classifier. Raises as `load_beats` does."""
    return BeatsClassifier(
        load_beats(path, finetuned=finetuned), classes=classes, freeze_encoder=freeze_encoder
    )


def _read(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only."""
    try:
        return read_torch_file(path)
    except UnreadableFile as error:
        raise BeatsFileError(path, str(error)) from error.__cause__


def _cfg_and_weights(path: Path, checkpoint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and the weights of a BEATs checkpoint."""
    if not isinstance(checkpoint, dict):
        raise BeatsFileError(
            path, f"it should hold two dicts named 'cfg' and 'model', but is a {type(checkpoint).__name__}"
        )
    cfg, weights = checkpoint.get("cfg"), checkpoint.get("model")
    if not isinstance(cfg, dict) or not isinstance(weights, dict):
        names = ", ".join(repr(key) for key in list(checkpoint)[:8])
        raise BeatsFileError(
            path, f"it should hold two dicts named 'cfg' and 'model', but holds {names or 'nothing'}"
        )
    return cfg, weights


def _check_kind(
    path: Path, cfg: Mapping[str, Any], weights: Mapping[str, Any], finetuned: bool | None
) -> None:
    """Raises BeatsFileError for a tokenizer, and for a model of the other kind than `finetuned` says."""
    if "quant_n" in cfg or _any_begins(weights, _QUANTIZER):
        raise BeatsFileError(
            path, "it is a BEATs tokenizer, which gives labels for pre-training; a BEATs model is wanted"
        )
    is_finetuned = bool(cfg.get("finetuned_model")) or _any_begins(weights, _PREDICTOR)
    if finetuned is None or finetuned == is_finetuned:
        return
    if finetuned:
        found, wanted, other = "pre-trained only", f"ssl_sl takes {FINETUNED_FILE}", "ssl and ssl_frozen"
    else:
        found, wanted, other = "fine-tuned on labels", f"ssl and ssl_frozen take {PRETRAINED_FILE}", "ssl_sl"
    raise BeatsFileError(
        path, f"the model in it is {found}, which is the kind of file for {other}, but {wanted}"
    )


def _any_begins(weights: Mapping[str, Any], start: str) -> bool:
    return any(str(name).startswith(start) for name in weights)
