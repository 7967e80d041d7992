"""Streams of seconds: what each has told so far, held in this process, so many of them and for so long."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from cachetools import TTLCache

from adaptf.evaluation.forward_filter import Belief, StreamCalibration, heard, later, no_belief
from adaptf.serving.classify import Answer
from adaptf.serving.places import Place
from adaptf.serving.requests import invalid

STREAMS_AT_ONCE = 10_000
"""Of more, those that were heard of the longest time ago are forgotten."""
FORGOTTEN_AFTER_SECONDS = 600


@dataclass(frozen=True)
class Stream:
    """What is known after its last second."""

    name: str
    belief: Belief
    next_second: int = 0
    seconds_heard: int = 0
    sure: bool = False
    """Whether its scene is more likely right than wrong."""


class Streams:
    """Safe under threads. Another process knows nothing of them."""

    def __init__(self) -> None:
        self._held: TTLCache[str, Stream] = TTLCache(STREAMS_AT_ONCE, FORGOTTEN_AFTER_SECONDS)
        self._one_at_a_time = Lock()

    def follow(
        self, places: Sequence[Place], answers: Sequence[Answer], *, stay_seconds: float
    ) -> list[Stream]:
        """Each place's stream after its row. Takes up all rows, or none:
        raises MlflowException (INVALID_PARAMETER_VALUE) that names one which its stream can't go on with."""
        changed: dict[str, Stream] = {}
        with self._one_at_a_time:
            known = ChainMap(changed, self._held)
            found = []
            for place, answer in zip(places, answers, strict=True):
                calibration = _calibration_of(place, answer)
                before = _before(place, known, scenes=answer.probabilities.shape[1])
                found.append(_after(before, place.second, answer, calibration, stay_seconds))
                changed[place.stream] = found[-1]
            self._held.update(changed)
        return found


def _calibration_of(place: Place, answer: Answer) -> StreamCalibration:
    if answer.stream is None:
        raise invalid(
            f"row {place.row}: {answer.version_used} was registered without what streams need: register its "
            "run of `quantize` again with this version of adaptf, or ask with aggregate='second'"
        )
    return answer.stream


def _before(place: Place, known: Mapping[str, Stream], *, scenes: int) -> Stream:
    """The stream that a row goes on with; second 0 begins one anew."""
    if place.second == 0:
        return Stream(place.stream, no_belief(scenes))
    said = f"row {place.row}: second {place.second} of stream {place.stream!r}"
    if (stream := known.get(place.stream)) is None:
        raise invalid(
            f"{said} follows nothing that is known here: begin with second 0. Streams are forgotten "
            f"{FORGOTTEN_AFTER_SECONDS} s after their last second and with the process that heard them"
        )
    if place.second < stream.next_second:
        raise invalid(f"{said} was heard already, or comes too late: the next is {stream.next_second}")
    return stream


def _after(
    stream: Stream, second: int, answer: Answer, calibration: StreamCalibration, stay_seconds: float
) -> Stream:
    """With the answer's clips, the first of which is this second; seconds that are missing tell nothing."""
    belief = later(stream.belief, second - stream.next_second, stay_seconds=stay_seconds)
    for probabilities in answer.probabilities:
        belief = heard(belief, probabilities, calibration, stay_seconds=stay_seconds)
    clips = len(answer.probabilities)
    sure = bool(belief.probabilities.max() >= calibration.threshold)
    return Stream(stream.name, belief, second + clips, stream.seconds_heard + clips, sure)
