"""What MLflow runs to load a model, so that no pickle is needed ("model from code"): the router, by the code
that lies beside this file."""

import sys
from pathlib import Path

from mlflow.models import set_model

_ARCHIVE = Path(__file__).parent / "code" / "adaptf.zip"
if _ARCHIVE.is_file():  # not yet where the model is being logged
    sys.path.insert(0, str(_ARCHIVE))

from adaptf.serving.router import DeviceRouter  # noqa: E402

set_model(DeviceRouter())
