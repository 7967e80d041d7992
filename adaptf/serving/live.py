"""Following the registry:
what is promoted there is taken up by a serving router, which never stops for it."""

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from adaptf.errors import UserError
from adaptf.names import UNKNOWN
from adaptf.serving import logged_model
from adaptf.serving.bundle import Bundle, RoutedModel, read_bundle
from adaptf.serving.kept import KeptVersions
from adaptf.serving.log_lines import log
from adaptf.serving.taking_up import Failures, check_fits, error_in_short
from adaptf.tracking import production, registry

_FIRST_CHECK_SECONDS = 30.0
"""So long a router waits for its first look at the registry before it answers with what is inside it."""

_ROUTER = registry.ROUTER_NAME.removeprefix(registry.PREFIX)
"""Whose note it is that another router is in production; no device is called so."""

Download = Callable[[str, str, Path], Path]
"""(registered model, version, folder) -> folder of the version's bundle"""


class Follower:
    """Holds the bundle that a router answers with and, once started, puts newly promoted versions in it.

    Devices are followed one by one: a version that does not load changes nothing for the others. The bundle
    is only ever replaced as a whole, so whoever reads it once per request has one version of each model.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        check_seconds: float,
        in_production: Callable[[], dict[str, production.Promoted]] = production.promoted,
        download: Download = logged_model.download_bundle,
        router: str = "",
        kept: KeptVersions | None = None,
    ) -> None:
        """`router`: the version that the bundle is, such as `adaptf-router/3`."""
        self.bundle, self.router, self.kept = bundle, router, kept
        self.check_seconds, self.in_production, self.download = check_seconds, in_production, download
        self.notes: dict[str, str] = {}
        """By device, in what way it does not answer with the version in production."""
        self.problem = ""
        """Why the registry could not be read the last time."""
        self.failures = Failures()
        """By device."""
        self.failed = {"registry": 0, "version": 0}
        """How often so far."""
        self.last_check: datetime | None = None
        """That the registry answered."""
        self.from_kept: dict[str, production.Promoted] = {}
        """By name: what answers from its copy on disk, and the registry has not said to be in production."""
        self._stop, self._first_check, self._wake = (threading.Event() for _ in range(3))
        self._thread: threading.Thread | None = None

    @property
    def live(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, *, limit_seconds: float = _FIRST_CHECK_SECONDS) -> None:
        """Returns after the first check,
        so that a router's first answer comes from what is in production already.

        Raises UserError for the model of one device, which answers for all devices by itself.
        """
        _check_names(self.bundle)
        self._thread = threading.Thread(target=self._run, name="adaptf-live", daemon=True)
        self._thread.start()
        if not self._first_check.wait(limit_seconds):
            self._say(
                f"no answer of the registry in {limit_seconds:g} s: serving the models inside the router"
            )

    def stop(self) -> None:
        """Ends the thread after the check in hand."""
        self._stop.set()
        self._wake.set()

    def look_now(self) -> None:
        """Has the registry looked at once, by the thread that does it: of several calls meanwhile, once."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.check()
            self._first_check.set()
            self._wake.wait(self.check_seconds)
            self._wake.clear()

    def check(self) -> None:
        """Looks at the registry once. Raises nothing:
        a problem is noted, counted and, when it is new, logged."""
        try:
            promoted = self.in_production()
        except Exception as error:
            self.failed["registry"] += 1
            if not self.problem:  # Its words may change from one time to the next.
                self._say(f"the registry does not answer, serving on without it: {error_in_short(error)}")
            self.problem = error_in_short(error)
            if not self.last_check:
                self._restore()
            return
        if self.problem:
            self._say("the registry answers again", logging.INFO)
        self.problem, self.last_check = "", datetime.now(UTC)
        names = registry.by_device(promoted)
        for device, name in names.items():
            self._follow(device, name, promoted[name])
        self._note_withdrawn(set(names))
        self._note_router(promoted.get(registry.ROUTER_NAME))
        self.from_kept = {name: kept for name, kept in self.from_kept.items() if promoted.get(name) != kept}
        if self.kept:  # A router may bring newer versions than the copies are.
            self.kept.forget_others({self.router, *(model.version for model in self.bundle.models.values())})

    def _follow(self, device: str, name: str, promoted: production.Promoted) -> None:
        """Takes up a promoted version, where that is not done and did not fail just now."""
        wanted, sha256 = f"{name}/{promoted.version}", promoted.sha256
        held = self.bundle.models.get(device)
        if held and (held.version, held.sha256) == (wanted, sha256):
            self._settle(device)
        elif self.failures.is_due(device, wanted, sha256):
            try:
                model = replace(self._load(name, promoted), sha256=sha256)
            except Exception as error:  # a full disk passes, and nobody knows from here what else does
                self.failures.add(device, wanted, sha256, first_wait_seconds=self.check_seconds)
                self._fail(device, wanted, error)
            else:
                self.bundle = replace(self.bundle, models={**self.bundle.models, device: model})
                self._settle(device)
                form, why = model.network.form, model.network.why
                log("live", device=device, version=wanted, form=form, why=why, message="taken up")

    def _load(self, name: str, promoted: production.Promoted) -> RoutedModel:
        """Raises BundleError where the version is not one that could answer here."""
        with tempfile.TemporaryDirectory(prefix="adaptf-", ignore_cleanup_errors=True) as folder:
            files, kept = self._fetch(name, promoted, Path(folder))
            bundle = read_bundle(files)
            check_fits(bundle, self.bundle)
            if kept:
                self.from_kept[name] = promoted
            else:
                self.from_kept.pop(name, None)
                if self.kept:
                    self.kept.keep(name, promoted.version, files)
        return replace(bundle.models[UNKNOWN], version=f"{name}/{promoted.version}")

    def _fetch(self, name: str, promoted: production.Promoted, folder: Path) -> tuple[Path, bool]:
        """The bundle of a version, and whether it is the kept copy,
        because the registry or its files are away."""
        try:
            if self.problem:
                raise UserError(self.problem)
            return self.download(name, promoted.version, folder), False
        except Exception as error:
            if not self.kept or self.kept.versions().get(name) != promoted:
                raise
            self._say(f"{name}/{promoted.version} comes from its copy on disk: {error_in_short(error)}")
            return self.kept.bundle(name), True

    def _restore(self) -> None:
        """Takes up the kept versions: what is in production, nobody knows."""
        kept = self.kept.versions() if self.kept else {}
        for device, name in registry.by_device(kept).items():
            self._follow(device, name, kept[name])

    def _fail(self, device: str, version: str, error: Exception) -> None:
        self.failed["version"] += 1
        said = f"{version} cannot be taken up, {self._serving(device)}: {error_in_short(error)}"
        self._note(device, said)

    def _note_withdrawn(self, promoted: set[str]) -> None:
        """Devices that no version is in production for keep their model;
        notes on others that are gone are dropped."""
        for device in set(self.bundle.models) - promoted:
            self.failures.pop(device, None)
            self._note(device, f"no version is in production, {self._serving(device)}", logging.INFO)
        for device in self.notes.keys() - promoted - self.bundle.models.keys() - {_ROUTER}:
            self._settle(device)

    def _note_router(self, promoted: production.Promoted | None) -> None:
        """It is not followed."""
        wanted = f"{registry.ROUTER_NAME}/{promoted.version}" if promoted else ""
        if wanted and self.router not in ("", wanted):
            message = f"{wanted} is in production, {self.router} answers until a restart"
            self._note(_ROUTER, message, logging.INFO)
        else:
            self._settle(_ROUTER)

    def _settle(self, device: str) -> None:
        self.notes.pop(device, None)
        self.failures.pop(device, None)

    def _note(self, device: str, message: str, level: int = logging.WARNING) -> None:
        """Says it once."""
        if self.notes.get(device) != message:
            self.notes[device] = message
            self._say(message, level, device=device)

    def _serving(self, device: str) -> str:
        used = self.bundle.device_used(device)
        return f"{self.bundle.models[used].version} keeps answering"

    @staticmethod
    def _say(message: str, level: int = logging.WARNING, **values: str) -> None:
        log("live", level, **values, message=message)


def _check_names(bundle: Bundle) -> None:
    """Raises UserError where a model is not the one that the registry has for its device."""
    for device, model in bundle.models.items():
        name, expected = model.version.partition("/")[0], registry.device_model_name(device)
        before = f"{registry.PREFIX}{device}"  # as versions of adaptf called it that stored a dot as it is
        if name not in (expected, before):
            raise UserError(
                f"live: {model.version} answers for {device!r} here, in the registry it is {expected}: serve "
                f"{registry.ROUTER_NAME}, only the router of all devices can follow it"
            )
