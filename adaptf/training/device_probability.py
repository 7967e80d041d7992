"""The probability of an impulse response for each recording device."""

from collections.abc import Mapping, Sequence


def devices_in(key: str) -> list[str]:
    """The devices that a key of `dir_p_of` names: one, or several separated by commas."""
    return [device.strip() for device in key.split(",")]


def probability_per_device(
    devices: Sequence[str], *, p: float, only: Sequence[str] = (), p_of: Mapping[str, float] | None = None
) -> list[float]:
    """In the order of `devices`:
    `p` for those in `only` (empty: for all), 0 for others, and what `p_of` says instead.

    The keys of `p_of` are read by `devices_in`. Raises ValueError where a probability is outside 0 to 1,
    where `only` or a key of `p_of` names a device that is not in `devices`,
    and where a key names one that another key names too.
    """
    for device in only:
        if device not in devices:
            raise ValueError(
                f"dir_devices names the device '{device}', the training clips are of {', '.join(devices)}"
            )
    probability = {device: p if device in only or not only else 0.0 for device in devices}
    named: set[str] = set()
    for key, value in (p_of or {}).items():
        for device in [key] if key in probability else devices_in(key):
            if device not in probability:
                raise ValueError(
                    f"dir_p_of names the device '{device}' in '{key}', the training clips are of "
                    f"{', '.join(devices)}"
                )
            if device in named:
                raise ValueError(f"dir_p_of names the device '{device}' twice: each should stand there once")
            named.add(device)
            probability[device] = value
    for name, value in {
        "dir_p": p,
        **{f"dir_p_of '{key}'": value for key, value in (p_of or {}).items()},
    }.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} should be a probability between 0 and 1, got {value:g}")
    return list(probability.values())
