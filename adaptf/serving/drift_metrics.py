"""What is told of drift: Prometheus metrics, read when somebody asks."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from adaptf.serving.drift import Drift
from adaptf.serving.monitoring import counter, gauge

_VERSION = ["device", "version"]


class DriftMetrics:
    """Of the versions that answer now, from the first clip of each on."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift

    def collect(self) -> Iterator[Metric]:
        watches = {(watch.device, watch.model.version): watch for watch in self.drift.watches()}
        distances = {labels: watch.distances for labels, watch in watches.items()}
        limits = {labels: watch.limits for labels, watch in watches.items()}
        yield gauge(
            "adaptf_drift_watched",
            "Whether a version has a profile that its clips are held against, 1 or 0.",
            _VERSION,
            {labels: float(watch.profile is not None) for labels, watch in watches.items()},
        )
        yield counter(
            "adaptf_drift_windows",
            "Windows of clips that were held against the profile.",
            _VERSION,
            {labels: watch.windows for labels, watch in watches.items()},
        )
        yield gauge(
            "adaptf_drift_distance",
            "Jensen-Shannon distance of the last window from the profile, from 0 to 1.",
            [*_VERSION, "kind"],
            _by_kind(distances),
        )
        yield gauge(
            "adaptf_drift_limit",
            "The highest distance within the range of the profile.",
            [*_VERSION, "kind"],
            _by_kind(limits),
        )


def _by_kind(
    values: Mapping[tuple[str, str], Mapping[str, float]],
) -> dict[tuple[str, ...], float]:
    return {(*labels, kind): value for labels, kinds in values.items() for kind, value in kinds.items()}
