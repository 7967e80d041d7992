"""What a network can be told, and what it is told: the settings of a checkpoint's description."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from adaptf.errors import UserError


def settings_taken(network: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a network that have defaults, with these."""
    parameters = inspect.signature(network).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not one.empty}


def network_settings(
    network: Callable[..., Any], *, shared: Mapping[str, Any], own: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """All settings of a network: those in `own`, else those in `shared` that it takes, else its defaults.

    Raises UserError for one in `own`, which is called `what`, that it does not take.
    """
    taken = settings_taken(network)
    if unknown := sorted(own.keys() - taken.keys()):
        raise UserError(
            f"{what}: there is no {', '.join(unknown)}, the network takes {', '.join(taken) or 'none'}"
        )
    return taken | {name: value for name, value in shared.items() if name in taken} | dict(own)
