"""What a serving router tells about its requests and its models: log lines and Prometheus metrics."""

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from adaptf.serving.bundle import Bundle
from adaptf.serving.classify import Answer
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log
from adaptf.serving.requests import BadRow, GivenUp

_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)

_SECONDS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48)
"""Bounds of the histogram: one clip takes a few milliseconds, the largest request some seconds."""

GIVEN_UP = "given up"
"""How a request ends that nobody waits for any more."""

_NO_DEVICE, _OTHER = "none", "other"
"""In the metrics, devices asked for: null, and any name without a network;
a client must not fill the store with names."""

_LONGEST_NAME = 40
_MOST_DEVICES = 20
"""Of one request in its log line: the most frequent."""


class Monitor:
    """Counts what a router answers with the follower's bundle."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.metrics = metrics = CollectorRegistry()
        self._numbers = count(1)
        self._requests = Counter(
            "adaptf_requests", "Requests, by how they ended.", ["status"], registry=metrics
        )
        self._requests.labels("error")  # Prometheus sees no first error where the series begins with it
        self._seconds = Histogram(
            "adaptf_request_seconds", "Time of a request in the router.", buckets=_SECONDS, registry=metrics
        )
        self._audio = Counter("adaptf_audio_seconds", "Seconds of audio classified.", registry=metrics)
        self._asked = Counter(
            "adaptf_rows_asked", "Rows, by the device asked for.", ["device"], registry=metrics
        )
        self._bad_rows = Counter(
            "adaptf_rows_failed", "Rows that were answered with an error.", registry=metrics
        )
        by = ["device", "scene"]
        self._rows = Counter(
            "adaptf_rows", "Rows, by the device used and the scene found.", by, registry=metrics
        )
        self._clips = Counter(
            "adaptf_clips", "Clips, by the device used and the scene found.", by, registry=metrics
        )
        metrics.register(_ModelMetrics(follower))

    @contextmanager
    def request(self) -> Iterator[list[Answer | BadRow]]:
        """Surrounds the answering of one request; its answers go into the list.
        Errors are counted and passed on."""
        number, start = next(self._numbers), time.perf_counter()
        answers: list[Answer | BadRow] = []
        try:
            yield answers
        except GivenUp:
            self._end(number, start, GIVEN_UP, {"message": "the client has gone, or the time is over"})
            raise
        except MlflowException as error:
            self._end(number, start, "refused", {"message": error.message})
            raise
        except Exception as error:
            self._end(number, start, "error", {"message": f"{type(error).__name__}: {error}"}, logging.ERROR)
            raise
        bad = [answer for answer in answers if isinstance(answer, BadRow)]
        good = [answer for answer in answers if not isinstance(answer, BadRow)]
        self._end(number, start, "ok", self._counted(good) | self._failed(bad))

    def turned_away(self, status: str, message: str) -> None:
        """Counts a request that the router never saw."""
        self._requests.labels(status).inc()
        log("request", status=status, message=message)

    def _end(
        self, number: int, start: float, status: str, values: dict[str, Any], level: int = logging.INFO
    ) -> None:
        seconds = time.perf_counter() - start
        self._requests.labels(status).inc()
        self._seconds.observe(seconds)
        log("request", level, request=number, status=status, ms=round(1000 * seconds, 2), **values)

    def _failed(self, bad: Sequence[BadRow]) -> dict[str, Any]:
        """Counts bad rows; for the log line how many, and the first one's error."""
        self._bad_rows.inc(len(bad))
        return {"failed": len(bad), "message": f"row {bad[0].number}: {bad[0].error}"} if bad else {}

    def _counted(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Adds the answers to the metrics; returns their counts for the log line."""
        bundle = self.follower.bundle
        rows = Tally((answer.device_used, _scene_of(answer, bundle)) for answer in answers)
        clips = Tally(
            (answer.device_used, bundle.scenes[best])
            for answer in answers
            for best in answer.probabilities.argmax(axis=1)
        )
        for labels, number in rows.items():
            self._rows.labels(*labels).inc(number)
        for labels, number in clips.items():
            self._clips.labels(*labels).inc(number)
        for device, number in Tally(_asked_label(answer.device_asked, bundle) for answer in answers).items():
            self._asked.labels(device).inc(number)
        seconds = sum(answer.seconds for answer in answers)
        self._audio.inc(seconds)
        return {
            "rows": len(answers),
            "clips": clips.total(),
            "audio_seconds": round(seconds, 3),
            "devices": _asked_and_used(answers),
            "versions": dict(Tally(answer.version_used for answer in answers)),
            "scenes": dict(Tally(_scene_of(answer, bundle) for answer in answers)),
        }


class _ModelMetrics:
    """Metrics of the models and of the registry's following, read when somebody asks,
    so that they never lag behind."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    def collect(self) -> Iterator[Metric]:
        follower = self.follower
        models = follower.bundle.models.items()
        yield gauge(
            "adaptf_model",
            "Networks that answer, 1 each.",
            ["device", "version", "form"],
            {(device, model.version, model.network.form): 1 for device, model in models},
        )
        yield gauge(
            "adaptf_form_refused",
            "Networks whose faster form says something else on this processor: by how much of the logits' "
            "spread.",
            ["device", "version"],
            {
                (device, model.version): model.network.refused_difference
                for device, model in models
                if model.network.refused_difference is not None
            },
        )
        yield gauge(
            "adaptf_live_not_taken_up",
            "Promoted versions that could not be taken up, 1 each.",
            ["device", "version"],
            {(device, failure.version): 1 for device, failure in follower.failures.copy().items()},
        )
        yield counter(
            "adaptf_live_failures",
            "Looks at the registry, or versions, that failed.",
            ["what"],
            {(what,): number for what, number in follower.failed.items()},
        )
        yield gauge(
            "adaptf_kept",
            "Versions that answer from their copies on disk, unconfirmed by the registry, 1 each.",
            ["name", "version"],
            {(name, one.version): 1 for name, one in follower.from_kept.copy().items()},
        )
        if follower.last_check:
            name, text = "adaptf_live_last_check_timestamp_seconds", "When the registry last answered."
            yield GaugeMetricFamily(name, text, value=follower.last_check.timestamp())


def gauge(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    """A value for each of the labels' values."""
    return _with_values(GaugeMetricFamily(name, text, labels=labels), values)


def counter(
    name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    """The same of what only grows."""
    return _with_values(CounterMetricFamily(name, text, labels=labels), values)


def _with_values(family: _Family, values: Mapping[tuple[str, ...], float]) -> _Family:
    for of_labels, value in values.items():
        family.add_metric(of_labels, value)
    return family


def _scene_of(answer: Answer, bundle: Bundle) -> str:
    """Of the whole row."""
    return bundle.scenes[int(answer.probabilities.mean(axis=0).argmax())]


def _asked_label(device: str | None, bundle: Bundle) -> str:
    """A device that was asked for, as the metrics name it."""
    return _NO_DEVICE if device is None else bundle.known(device) or _OTHER


def _asked_and_used(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Devices asked for and used, with the number of rows; a client's name is cut where it is long."""
    pairs = Tally(
        (answer.device_asked and answer.device_asked[:_LONGEST_NAME], answer.device_used)
        for answer in answers
    )
    return [
        {"asked": asked, "used": used, "rows": rows}
        for (asked, used), rows in pairs.most_common(_MOST_DEVICES)
    ]
