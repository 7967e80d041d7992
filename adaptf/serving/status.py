"""What /health and /version of a served router tell."""

from importlib.metadata import version as installed_version
from typing import Any

import adaptf
from adaptf.serving.live import Follower


def health(follower: Follower) -> dict[str, Any]:
    """Not ok: it no longer follows the registry though it should.
    A registry that does not answer harms no request."""
    return {
        "ok": follower.is_alive() or not follower.live,
        "live": follower.live,
        "last_check": follower.last_check and follower.last_check.isoformat(timespec="seconds"),
        "registry": follower.problem or ("answers" if follower.last_check else "not asked"),
    }


def versions(follower: Follower) -> dict[str, Any]:
    """What answers for each device, and in what way that is not what the registry has in production."""
    return {
        "adaptf": adaptf.__version__,
        "mlflow": installed_version("mlflow"),
        "router": follower.router,
        "kept": {name: one.version for name, one in follower.from_kept.copy().items()},
        "devices": {
            device: {"version": model.version, "form": model.network.form, "why": model.network.why}
            for device, model in sorted(follower.bundle.models.items())
        },
        "notes": dict(sorted(follower.notes.copy().items())),
    }
