"""What the benchmarks of inference and serving measure:
TF-SepNet-64 for each device with random weights, and its router.

Neither form of a network takes another time for weights that learnt something.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path

import mlflow
import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from adaptf.audio.logmel import LogMel
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import NETWORK_FILES
from adaptf.data.clips import UNKNOWN
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES
from adaptf.pipeline.stage import quiet_libraries
from adaptf.serving import router_model
from adaptf.serving.bundle import write_bundle
from adaptf.tracking import registry

DEVICES = ("a", "b", "c", "s1", "s2", "s3", UNKNOWN)
RATE, FILE_RATE = 32000, 44100
BATCHES, BATCH = 2, 8


class DenseLogMel(nn.Module):
    """LogMel written plainly: torch.stft and one product with the whole filterbank (512, 2049)."""

    def __init__(self) -> None:
        super().__init__()
        ours = LogMel()
        self.filters, self.window = ours.filters, ours.window

    def forward(self, waveform: Tensor) -> Tensor:
        waveform = nn.functional.conv1d(waveform[:, None], torch.tensor([[[-0.97, 1.0]]]))[:, 0]
        spectrum = torch.stft(
            waveform, 4096, hop_length=500, win_length=3072, window=self.window, return_complex=True
        )
        mel = self.filters @ spectrum.abs().square()
        return ((torch.log(mel + 1e-5) + 4.5) / 5).unsqueeze(1)


class PlainResidualNormalization(nn.Module):
    """The formula as it stands."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True)
        return 0.1 * x + (x - mean) / torch.sqrt(variance + 1e-5)


@cache
def float_network(device: str) -> TfSepNet:
    """Random weights, and batch-norm statistics of a few batches of noise."""
    torch.manual_seed(DEVICES.index(device))
    network = TfSepNet(classes=len(TAU_SCENES)).train()
    with torch.no_grad():
        for batch in log_mels():
            network(batch)
    return network.eval()


def plainly_written(network: TfSepNet) -> nn.Module:
    """A copy of the network in which no operation is written for speed."""
    copy = deepcopy(network)
    for place, module in enumerate(copy.body):
        if isinstance(module, ResidualNormalization):
            copy.body[place] = PlainResidualNormalization()
    return copy


@cache
def log_mels() -> tuple[Tensor, ...]:
    """Batches of noise of different loudness."""
    generator, log_mel = torch.Generator().manual_seed(0), LogMel()
    gains = torch.logspace(-3, -0.5, BATCH)[:, None]
    return tuple(log_mel(gains * torch.randn(BATCH, RATE, generator=generator)) for _ in range(BATCHES))


def quantized_files(folder: Path, devices: Sequence[str] = DEVICES) -> dict[str, Path]:
    """The INT8 file of each device, its OpenVINO form beside it:
    that of the first, copied, as quantizing takes a while."""
    folder.mkdir(parents=True, exist_ok=True)
    first, *others = (folder / f"{device}.pt2" for device in devices)
    save_forms(quantize_int8(float_network(devices[0]), log_mels()), first)
    for path in others:
        for suffix in NETWORK_FILES:
            shutil.copyfile(first.with_suffix(suffix), path.with_suffix(suffix))
    return {path.stem: path for path in (first, *others)}


@contextmanager
def logged_router(folder: Path) -> Iterator[str]:
    """URI of a registered router of all devices in an MLflow store in `folder`."""
    write_bundle(
        folder / "bundle",
        {device: (path, f"adaptf-{device}/1") for device, path in quantized_files(folder / "int8").items()},
        scenes=TAU_SCENES,
        mel={},
        sample_rate=RATE,
        clip_samples=RATE,
        max_seconds=60.0,
    )
    quiet_libraries()
    former = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("benchmark", artifact_location=(folder / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment):
        logged = router_model.log_router(folder / "bundle", registry.ROUTER_NAME)
        version = registry.register(logged, registry.ROUTER_NAME, tags={}, description="")
    try:
        yield f"models:/{registry.ROUTER_NAME}/{version}"
    finally:
        mlflow.set_tracking_uri(former)


def write_wavs(folder: Path, count: int) -> list[str]:
    """Names of one-second files, mono and 16 bit, of noise."""
    folder.mkdir(parents=True)
    generator, names = np.random.default_rng(0), [f"{number}.wav" for number in range(count)]
    for name in names:
        soundfile.write(
            folder / name, 0.1 * generator.standard_normal(FILE_RATE), FILE_RATE, subtype="PCM_16"
        )
    return names
