"""Whether MLflow samples processor, memory and GPU while a stage works."""

from importlib.util import find_spec
from typing import Any

from adaptf.errors import UserError
from adaptf.evaluation.predict import inference_device

_GPU_READERS = ("pynvml", "pyrsmi")


def samples_system(config: Any) -> bool:
    """What a stage's settings say of it. Raises UserError where a GPU trains that nothing here can read."""
    trainer = getattr(config, "trainer", None)
    if trainer is None or not trainer.system_metrics:
        return False
    if inference_device(trainer.accelerator).type == "cuda" and not any(map(find_spec, _GPU_READERS)):
        raise UserError(
            "trainer.system_metrics needs a package that reads the GPU: pip install nvidia-ml-py (pyrsmi for "
            "AMD), or leave it false"
        )
    return True
