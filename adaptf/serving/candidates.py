"""The models that answer beside production: versions with the alias `shadow`, loaded as promoted ones are."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from adaptf.names import UNKNOWN
from adaptf.serving import logged_model
from adaptf.serving.bundle import RoutedModel, read_bundle
from adaptf.serving.live import Download, Follower
from adaptf.serving.log_lines import log
from adaptf.serving.taking_up import Failures, check_fits, check_same_task, error_in_short
from adaptf.tracking import candidates, registry
from adaptf.tracking.production import Promoted


class Candidates:
    """By device, what answers beside the models of a follower. A device's own version counts more than the
    one in a router that has the alias."""

    def __init__(
        self,
        follower: Follower,
        *,
        named: Callable[[], dict[str, Promoted]] = candidates.candidates,
        download: Download = logged_model.download_bundle,
    ) -> None:
        self.follower, self.named, self.download = follower, named, download
        self.models: Mapping[str, RoutedModel] = {}
        """Only ever replaced as a whole."""
        self.failures = Failures()
        """By registered model."""
        self.notes: dict[str, str] = {}
        """By registered model, why its version does not answer."""
        self._loaded: dict[str, tuple[Promoted, Mapping[str, RoutedModel]]] = {}

    def look(self) -> None:
        """Looks at the registry once. Raises nothing: what fails changes nothing for production, and a
        registry that does not answer the follower tells of."""
        try:
            named = self.named()
        except Exception:
            return
        devices = registry.by_device(named)
        wanted = {name: devices[name] for name in devices if name in self.follower.bundle.models}
        names = [registry.ROUTER_NAME] * (registry.ROUTER_NAME in named) + list(wanted.values())
        for held in (self._loaded, self.failures, self.notes):
            for name in set(held) - set(names):
                del held[name]
        models: dict[str, RoutedModel] = {}
        for name in names:
            models |= self._models_of(name, named[name])
        self.models = models

    def _models_of(self, name: str, promoted: Promoted) -> Mapping[str, RoutedModel]:
        """By device; none where the version cannot be loaded."""
        version, held = f"{name}/{promoted.version}", self._loaded.get(name)
        if held and held[0] == promoted:
            return held[1]
        self._loaded.pop(name, None)
        if self.failures.is_due(name, version, promoted.sha256):
            try:
                models = self._load(name, promoted)
            except Exception as error:  # as in the follower, nobody knows from here what passes
                first_wait_seconds = self.follower.check_seconds
                self.failures.add(name, version, promoted.sha256, first_wait_seconds=first_wait_seconds)
                self._note(name, f"{version} cannot answer beside production: {error_in_short(error)}")
            else:
                self._loaded[name] = promoted, models
                self.failures.pop(name, None)
                self.notes.pop(name, None)
                log("shadow", version=version, message="answers beside production")
                return models
        return {}

    def _load(self, name: str, promoted: Promoted) -> Mapping[str, RoutedModel]:
        """Raises BundleError where the version is not one that could answer here."""
        with tempfile.TemporaryDirectory(prefix="adaptf-", ignore_cleanup_errors=True) as folder:
            bundle = read_bundle(self.download(name, promoted.version, Path(folder)))
        if name == registry.ROUTER_NAME:
            check_same_task(bundle, self.follower.bundle)
            return bundle.models
        check_fits(bundle, self.follower.bundle)
        version = f"{name}/{promoted.version}"
        (device,) = registry.by_device([name])
        return {device: replace(bundle.models[UNKNOWN], version=version, sha256=promoted.sha256)}

    def _note(self, name: str, message: str) -> None:
        """Says it once."""
        if self.notes.get(name) != message:
            self.notes[name] = message
            log("shadow", logging.WARNING, message=message)
