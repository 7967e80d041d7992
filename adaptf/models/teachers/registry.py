"""The teachers: each network is a file in this folder, and each way to come by one a line in `TEACHERS`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.errors import UserError
from adaptf.models.teachers.beats import BeatsFeatures, embedding_code, rebuilt_beats
from adaptf.models.teachers.beats_file import beats_from_file
from adaptf.models.teachers.small_cnn import SmallCnnTeacher

SMALL_CNN = "small_cnn"


@dataclass(frozen=True)
class Teacher:
    """What `-P kind=<its name>` of the stage `teacher`, or a place in `main`'s `teacher_kinds`, trains and
    lets predict.

    Without `from_file` it is trained from scratch, with the options in the section `small`: the stage calls
    `network`. With it, it is fine-tuned with `augment` and `optim`. Both are called with keyword arguments:
    `classes`, and plain values that have defaults.
    Of the stage's options they get `width` where they take it, and from `settings` the others.
    """

    name: str
    """Of the network: in checkpoints, in a run's tags, in tables. Teachers that begin in other ways may share
    one."""
    network: Callable[..., nn.Module]
    """Features (batch, 1, bands, frames) -> logits (batch, classes). Also rebuilds it for a checkpoint."""
    features: Callable[..., nn.Module] = LogMel
    """Waveform (batch, samples) -> features. Log-mels are as `small.mel` says, other features get no
    arguments."""
    from_file: Callable[..., nn.Module] | None = None
    """The network with the weights of a file, its first argument; `network` rebuilds it from its `settings`.

    Raises UserError for a file that is none of its kind: so the file is checked before anything begins."""
    file_option: str = "file"
    """The option of the stage that names the file; where that is `none` the small teacher takes its place."""
    embedding_code: Callable[[], tuple[str, ...]] | None = None
    """For an encoder that does not learn, which has its own options (`frozen`): what decides embeddings
    beside the file.

    The network's `embed` makes embeddings (batch, dim) of features, its `classifier` logits of these."""
    skips_weights: bool = False
    """Whether some steps use not all weights, as where whole layers are dropped: several processes have to
    know it."""


_beats = partial(Teacher, "beats", rebuilt_beats, BeatsFeatures, skips_weights=True)
TEACHERS = {
    "ssl": _beats(from_file=partial(beats_from_file, finetuned=False), file_option="beats_ssl_file"),
    "ssl_sl": _beats(from_file=partial(beats_from_file, finetuned=True), file_option="beats_ssl_sl_file"),
    "ssl_frozen": _beats(
        from_file=partial(beats_from_file, finetuned=False, freeze_encoder=True),
        file_option="beats_ssl_file",
        embedding_code=embedding_code,
    ),
    SMALL_CNN: Teacher(SMALL_CNN, SmallCnnTeacher),
}


def find_teacher(kind: str) -> Teacher:
    """Raises UserError where there is none of this name."""
    if kind not in TEACHERS:
        raise UserError(f"there is no teacher '{kind}', there are {', '.join(TEACHERS)}")
    return TEACHERS[kind]
