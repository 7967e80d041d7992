"""A response: the parameters that a request may have, and the table that it is answered with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.evaluation.forward_filter import STAY_SECONDS
from adaptf.serving.classify import Answer
from adaptf.serving.requests import SECOND, STREAM, BadRow, invalid, shown
from adaptf.serving.streams import Stream

_FILE, _SECOND, _STREAM = "file", "second", "stream"
_FAIL, _ROW = "fail", "row"
_NUMBER = "row"
"""Of the request, from 0."""
_PROBABILITY = "probability"
_NONE: NDArray[np.float64] = np.empty(0)
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
    on_error: str = _FAIL
    """What becomes of a row that cannot be answered. `fail`: nothing is answered, and it is named;
    `row`: a row that says so in `error`, and the others are answered."""

    @property
    def of_streams(self) -> bool:
        """Whether rows say which stream they belong to."""
        return self.aggregate == _STREAM

    @property
    def keeps_bad_rows(self) -> bool:
        """Whether a row that cannot be answered is a row of the answer."""
        return self.on_error == _ROW


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
    if read.on_error not in (_FAIL, _ROW):
        raise invalid(f"on_error should be {_FAIL!r} or {_ROW!r}, got {shown(read.on_error)}")
    if read.of_streams and read.keeps_bad_rows:
        raise invalid(f"on_error={_ROW!r} is not for aggregate={_STREAM!r}: rows of a stream hang together")
    stay = read.stay_seconds
    if type(stay) not in (int, float) or not 1 <= stay <= _LONGEST_STAY_SECONDS:
        raise invalid(f"stay_seconds should be from 1 to {_LONGEST_STAY_SECONDS}, got {shown(stay)}")
    return read


def response_rows(
    answers: Sequence[Answer | BadRow],
    parameters: Parameters,
    *,
    scenes: Sequence[str],
    clip_seconds: float,
    streams: Sequence[Stream] = (),
) -> list[dict[str, Any]]:
    """The response; `streams` are those of the request's rows, after them. The names in a row hang on the
    parameters alone: engines join the answers to one batch after the other."""
    row_of = partial(_row_of, top_k=parameters.top_k, scenes=scenes)
    if parameters.aggregate == _SECOND:
        return [
            {_NUMBER: number, SECOND: second} | row_of(answer, probabilities)
            for number, answer in enumerate(answers)
            for second, probabilities in _seconds_of(answer, clip_seconds)
        ]
    if parameters.of_streams:
        return [
            _place_of(stream)
            | row_of(answer, stream.belief.probabilities)
            | ({} if stream.sure else {"scene": UNSURE})
            for answer, stream in zip(answers, streams, strict=True)
        ]
    return [row_of(answer, _mean_of(answer)) for answer in answers]


def response_table(rows: Sequence[Mapping[str, Any]], index: pd.Index) -> pd.DataFrame:
    """The response as a table; `index` is the request's."""
    # Columns of objects: pandas would turn a null device into NaN, which is not JSON. One by one: from rows
    # it takes 3 ms.
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if _NUMBER in columns:
        index = index.take(columns[_NUMBER])
    numbers = set() if None in columns[_PROBABILITY] else {_PROBABILITY}
    table = {
        name: pd.Series(values, index, dtype=float if name in numbers else object)
        for name, values in columns.items()
    }
    return pd.DataFrame(table, copy=False)


def _place_of(stream: Stream) -> dict[str, Any]:
    return {STREAM: stream.name, SECOND: stream.next_second - 1, "seconds_heard": stream.seconds_heard}


def _seconds_of(
    answer: Answer | BadRow, clip_seconds: float
) -> Iterator[tuple[float | None, NDArray[np.float64]]]:
    """Where each clip begins, and its probabilities (scenes,)."""
    if isinstance(answer, BadRow):
        yield None, _NONE
    else:
        for clip, probabilities in enumerate(answer.probabilities):
            yield clip * clip_seconds, probabilities


def _mean_of(answer: Answer | BadRow) -> NDArray[np.float64]:
    """(scenes,)"""
    return _NONE if isinstance(answer, BadRow) else answer.probabilities.mean(axis=0)


def _row_of(
    answer: Answer | BadRow, probabilities: NDArray[np.float64], *, top_k: int, scenes: Sequence[str]
) -> dict[str, Any]:
    """One row of the response; `probabilities` (scenes,)."""
    if isinstance(answer, BadRow):
        return _bad(answer)
    best = int(probabilities.argmax())
    order = np.argsort(-probabilities, kind="stable")[:top_k] if top_k else range(len(scenes))
    return {
        "scene": scenes[best],
        _PROBABILITY: float(probabilities[best]),
        "device_asked": answer.device_asked,
        "device_used": answer.device_used,
        "version_used": answer.version_used,
        "probabilities": {scenes[place]: float(probabilities[place]) for place in order},
        "error": "",
    }


def _bad(row: BadRow) -> dict[str, Any]:
    """No null where there is text: Spark would be given the word None."""
    return {
        "scene": "",
        _PROBABILITY: None,
        "device_asked": row.device,
        "device_used": "",
        "version_used": "",
        "probabilities": {},
        "error": row.error,
    }
