"""How often a candidate says the same scene as the version in production, of the clips that both answered."""

from collections import Counter
from typing import Any

from adaptf.serving.bundle import RoutedModel


class Agreement:
    """Of one candidate with one version in production, on clips of one device. One thread counts, any may
    read."""

    def __init__(self, production: RoutedModel, candidate: RoutedModel) -> None:
        self.production, self.candidate = production, candidate
        self.scenes: Counter[tuple[str, str]] = Counter()
        """Clips, by production's scene and the candidate's."""
        self.errors = 0
        """Clips that the candidate did not answer."""

    def is_of(self, production: RoutedModel, candidate: RoutedModel) -> bool:
        """Whether these very models are compared, so that nothing of others is counted."""
        return self.production is production and self.candidate is candidate

    def table(self) -> dict[str, Any]:
        """The versions with their hashes, and the figures, as /shadow tells them."""
        scenes = self.scenes.copy()
        by_scene = {
            scene: {
                "clips": sum(clips for (former, _), clips in scenes.items() if former == scene),
                "agreed": scenes[scene, scene],
            }
            for scene in sorted({former for former, _ in scenes})
        }
        return {
            "version": self.candidate.version,
            "sha256": self.candidate.sha256,
            "production": self.production.version,
            "production_sha256": self.production.sha256,
            "clips": scenes.total(),
            "agreed": sum(figures["agreed"] for figures in by_scene.values()),
            "errors": self.errors,
            "scenes": by_scene,
            "changed": [
                {"scene": former, "shadow_scene": scene, "clips": clips}
                for (former, scene), clips in scenes.most_common()
                if former != scene
            ],
        }


def are_same(one: RoutedModel, other: RoutedModel) -> bool:
    """Whether two models are one version."""
    return is_one_version((one.version, one.sha256), (other.version, other.sha256))


def is_one_version(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two versions, each with its hash, are one: of some, nobody knows the hash."""
    known = one[1] and other[1]
    return one[0] == other[0] and (one[1] == other[1] or not known)
