"""The devices' models are quantized side by side, each on a processor core of its own."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial

import torch

from adaptf.compression.fresh_process import FreshProcess, fresh_process
from adaptf.data.processes import process_pool
from adaptf.data.shared_objects import SharedObjects
from adaptf.models.classifier import Classifier
from adaptf.pipeline.quantize_device import Quantized

_QuantizeOne = Callable[[str, Classifier, FreshProcess, SharedObjects], Quantized]


def quantize_devices(
    models: Mapping[str, Classifier], quantize_one: _QuantizeOne, shared: SharedObjects
) -> Iterator[Quantized]:
    """What was found about each, in their order.

    They take as many processes as torch has threads; with one, all is done in this process.
    """
    workers = min(torch.get_num_threads(), len(models))
    if workers == 1:
        with fresh_process() as fresh:
            for device, classifier in models.items():
                yield quantize_one(device, classifier, fresh, shared)
    else:
        with _ended_at_once(process_pool(workers)) as pool:
            yield from pool.map(partial(_on_one_core, quantize_one), models, models.values())


@contextmanager
def _ended_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Whoever interrupts the stage need not wait for models that are made again anyway."""
    with pool:
        try:
            yield pool
        except BaseException:
            for process in pool._processes.values():  # Python 3.14 has a method for it
                process.terminate()
            raise


def _on_one_core(quantize_one: _QuantizeOne, device: str, classifier: Classifier) -> Quantized:
    torch.set_num_threads(1)
    with fresh_process() as fresh:
        return quantize_one(device, classifier, fresh, _of_this_process())


@cache
def _of_this_process() -> SharedObjects:
    """For all models that it gets."""
    return SharedObjects()
