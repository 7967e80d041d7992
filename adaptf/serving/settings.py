"""How a router is served: MLflow's `model_config`, whose values are overridden when the model is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from adaptf.errors import UserError

_FORMER = ("metrics_port", "metrics_host")
"""In models that were registered before `serve` had these routes."""


@dataclass(frozen=True)
class Settings:
    """The defaults are written into every model; MLflow lets no other names be overridden."""

    live: bool = False
    """Whether what is promoted in the registry is taken up while the router serves."""
    check_seconds: float = 10.0
    """Time between two looks at the registry."""
    device_from_sound: bool = False
    """Whether the sound says which device recorded a row that names none; above a probability that `finetune`
    chose the device's model answers, else that of `unknown`."""


def read_settings(config: Mapping[str, Any] | None) -> Settings:
    """Raises UserError that names the value at fault.
    Names that there are not, MLflow leaves out with a warning."""
    given = {name: value for name, value in (config or {}).items() if name not in _FORMER}
    if unknown := sorted(given.keys() - {field.name for field in fields(Settings)}):
        raise _wrong(unknown[0], given[unknown[0]], "not be there: no setting has this name")
    settings = Settings(**given)
    for name in ("live", "device_from_sound"):
        if not isinstance(value := getattr(settings, name), bool):
            raise _wrong(name, value, "be true or false")
    if type(settings.check_seconds) not in (int, float) or not 0.1 <= settings.check_seconds <= 86_400:
        raise _wrong("check_seconds", settings.check_seconds, "be a number of seconds from 0.1 to 86400")
    return settings


def _wrong(name: str, value: Any, right: str) -> UserError:
    return UserError(f"model_config: {name} should {right}, got {value!r}")
