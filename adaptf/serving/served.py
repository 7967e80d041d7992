"""What MLflow runs to load a model, so that no pickle is needed ("model from code"): the router, by the code
that lies beside this file."""

import sys
from pathlib import Path

from mlflow.models import set_model

_ARCHIVE = Path(__file__).parent / "code" / "adaptf.zip"
# The archive is not there yet where the model is being logged. Where adaptf runs already it stays what it is,
# and processes that are started later would get less of it.
if _ARCHIVE.is_file() and "adaptf" not in sys.modules:
    sys.path.insert(0, str(_ARCHIVE))

from adaptf.serving.router import DeviceRouter  # noqa: E402

set_model(DeviceRouter())
