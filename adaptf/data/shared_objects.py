"""What the stages of one process need not read or compute twice."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class SharedObjects:
    """Values by the keys that they were first asked for under; they live as long as this object does.

    Whoever gets a value shares it: nobody may change it. A key has to hold all that the value depends on.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when it was first called for this key.
        What raises is asked again the next time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made
