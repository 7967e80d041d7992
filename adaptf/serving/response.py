"""A response: the parameters that a request may have, and the table that it is answered with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.evaluation.forward_filter import STAY_SECONDS
from adaptf.serving.classify import Answer
from adaptf.serving.requests import SECOND, STREAM, invalid, shown
from adaptf.serving.streams import Stream

_FILE, _SECOND, _STREAM = "file", "second", "stream"
UNSURE = "unsure"
"""In place of a stream's scene that is more likely wrong than right."""
_LONGEST_STAY_SECONDS = 86_400


@dataclass(frozen=True)
class Parameters:
    """What a request may ask for besides its rows; the fields' defaults are those of the signature."""

    top_k: int = 0
    """How many scenes `probabilities` holds, the most probable first; 0: all, in their own order."""
    aggregate: str = _FILE
    """`file`: a row per row of the request; `second`: one per clip of it, which lasts a second;
    `stream`: a row per row of the request, with the scene of its stream so far."""
    stay_seconds: float = STAY_SECONDS
    """How long a stream stays in a scene, typically: longer stays are followed later and more surely."""

    @property
    def of_streams(self) -> bool:
        """Whether rows say which stream they belong to."""
        return self.aggregate == _STREAM


def read_parameters(params: Mapping[str, Any] | None, *, scenes: int) -> Parameters:
    """Raises MlflowException (INVALID_PARAMETER_VALUE) for a parameter or a value that there is not."""
    if not isinstance(params or {}, Mapping):
        raise invalid(f"params must be a dictionary, got {shown(params)}")
    given = {name: value for name, value in (params or {}).items() if value is not None}
    if unknown := sorted(given.keys() - vars(Parameters()).keys()):
        raise invalid(
            f"unknown parameter {unknown[0]!r}; there are {', '.join(map(repr, vars(Parameters())))}"
        )
    read = Parameters(**given)
    if isinstance(read.top_k, bool) or not isinstance(read.top_k, int) or not 0 <= read.top_k <= scenes:
        raise invalid(
            f"top_k should be a whole number from 0 (all scenes) to {scenes}, got {shown(read.top_k)}"
        )
    if read.aggregate not in (_FILE, _SECOND, _STREAM):
        raise invalid(
            f"aggregate should be {_FILE!r}, {_SECOND!r} or {_STREAM!r}, got {shown(read.aggregate)}"
        )
    stay = read.stay_seconds
    if type(stay) not in (int, float) or not 1 <= stay <= _LONGEST_STAY_SECONDS:
        raise invalid(f"stay_seconds should be from 1 to {_LONGEST_STAY_SECONDS}, got {shown(stay)}")
    return read


def response_table(
    answers: Sequence[Answer],
    parameters: Parameters,
    *,
    scenes: Sequence[str],
    clip_seconds: float,
    index: pd.Index,
    streams: Sequence[Stream] = (),
) -> pd.DataFrame:
    """The response; `index` is the request's, `streams` those of its rows, after them."""
    if parameters.aggregate == _SECOND:
        numbered = [
            (row, clip) for row, answer in enumerate(answers) for clip in range(len(answer.probabilities))
        ]
        rows = [
            {"row": row, "second": clip * clip_seconds}
            | _row_of(answers[row], answers[row].probabilities[clip], parameters.top_k, scenes)
            for row, clip in numbered
        ]
        index = index.take([row for row, _ in numbered])
    elif parameters.of_streams:
        rows = [
            _place_of(stream)
            | _row_of(answer, stream.belief.probabilities, parameters.top_k, scenes)
            | ({} if stream.sure else {"scene": UNSURE})
            for answer, stream in zip(answers, streams, strict=True)
        ]
    else:
        rows = [
            _row_of(answer, answer.probabilities.mean(axis=0), parameters.top_k, scenes) for answer in answers
        ]
    # Columns of objects: pandas would turn a null device into NaN, which is not JSON. One by one: from rows
    # it takes 3 ms.
    columns = {
        name: pd.Series([row[name] for row in rows], index, dtype=float if name == "probability" else object)
        for name in rows[0]
    }
    return pd.DataFrame(columns, copy=False)


def _place_of(stream: Stream) -> dict[str, Any]:
    return {STREAM: stream.name, SECOND: stream.next_second - 1, "seconds_heard": stream.seconds_heard}


def _row_of(
    answer: Answer, probabilities: NDArray[np.float64], top_k: int, scenes: Sequence[str]
) -> dict[str, Any]:
    """One row of the response; `probabilities` (scenes,)."""
    best = int(probabilities.argmax())
    order = np.argsort(-probabilities, kind="stable")[:top_k] if top_k else range(len(scenes))
    return {
        "scene": scenes[best],
        "probability": float(probabilities[best]),
        "device_asked": answer.device_asked,
        "device_used": answer.device_used,
        "version_used": answer.version_used,
        "probabilities": {scenes[place]: float(probabilities[place]) for place in order},
    }
