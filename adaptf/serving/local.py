"""A router in this process, which runs this package's code, whatever code a registered model brings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adaptf.serving.bundle import BUNDLE
from adaptf.serving.router import DeviceRouter


def local_router(bundle: Path, **settings: Any) -> DeviceRouter:
    """Of a bundle's folder; `settings` are those of `serving/settings.py`. Raises UserError."""
    router = DeviceRouter()
    router.load_context(SimpleNamespace(artifacts={BUNDLE: str(bundle)}, model_config=settings or None))
    return router
