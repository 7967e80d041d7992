"""What is told of candidates beside production: /shadow, and Prometheus metrics."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import Metric

from adaptf.serving.monitoring import counter, gauge
from adaptf.serving.shadow import Shadow

_VERSIONS = ["device", "version", "production"]


def shadow_page(shadow: Shadow) -> dict[str, Any]:
    """By device the two versions and how often they agree, which `promote` can be asked to look at."""
    return {
        "share": shadow.share,
        "devices": {device: agreement.table() for device, agreement in shadow.agreements().items()},
        "dropped": shadow.dropped,
        "notes": dict(sorted(shadow.candidates.notes.copy().items())),
    }


class ShadowMetrics:
    """Read when somebody asks; counts of versions that are no longer compared are gone."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow

    def collect(self) -> Iterator[Metric]:
        page = shadow_page(self.shadow)
        tables = {
            (device, table["version"], table["production"]): table
            for device, table in page["devices"].items()
        }
        scenes = {
            (*versions, scene): figures
            for versions, table in tables.items()
            for scene, figures in table["scenes"].items()
        }
        changed: dict[tuple[str, ...], int] = {
            (*versions, change["scene"], change["shadow_scene"]): change["clips"]
            for versions, table in tables.items()
            for change in table["changed"]
        }
        yield gauge(
            "adaptf_shadow_model",
            "Candidates that answer beside production, 1 each.",
            ["device", "version", "form"],
            {
                (device, agreement.candidate.version, agreement.candidate.network.form): 1
                for device, agreement in self.shadow.agreements().items()
            },
        )
        yield counter(
            "adaptf_shadow_clips",
            "Clips that a candidate answered too, by production's scene.",
            [*_VERSIONS, "scene"],
            {labels: figures["clips"] for labels, figures in scenes.items()},
        )
        yield counter(
            "adaptf_shadow_agreed",
            "Those for which it said the same scene.",
            [*_VERSIONS, "scene"],
            {labels: figures["agreed"] for labels, figures in scenes.items()},
        )
        yield counter(
            "adaptf_shadow_changed",
            "Those for which it said another one.",
            [*_VERSIONS, "scene", "shadow_scene"],
            changed,
        )
        yield counter(
            "adaptf_shadow_errors",
            "Clips that a candidate failed to answer.",
            _VERSIONS,
            {versions: table["errors"] for versions, table in tables.items()},
        )
        yield counter(
            "adaptf_shadow_dropped", "Clips for which there was no time.", [], {(): page["dropped"]}
        )
