"""What a training costs on a GPU:
an epoch by `fit`, single steps in their variants, what waits, a BEATs-sized teacher.

python benchmarks/gpu.py

It makes its own clips (noise, in the memory of the card) and takes some four minutes.
Without a GPU it says so.
"""

import argparse
import contextlib
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.profiler import ProfilerActivity, profile

from adaptf.audio.freq_mixstyle import FreqMixStyle
from adaptf.audio.impulse_response import DeviceImpulseResponse, simulated_bank
from adaptf.audio.mixup import Mixup
from adaptf.data.batch import Labels, WaveformBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.data_module import ClipDataModule
from adaptf.data.loading import Loading
from adaptf.data.sources import HeldWaveforms, Sample
from adaptf.models.classifier import Classifier, ModelDescription, build_classifier
from adaptf.training.augmentation import impulse_responses, on_features, soft_mixup
from adaptf.training.fit import fit
from adaptf.training.losses import DistillationLoss
from adaptf.training.metrics import MacroAccuracy
from adaptf.training.optim import adam_with_warm_restarts
from adaptf.training.task import ClassifierTask, with_targets

SCENES = tuple(f"scene {number}" for number in range(10))
RATE, TEACHERS, DEVICES = 32_000, 3, 6
OFFICIAL_CLIPS = 34_900
"""Of the 25 % split."""
WARM_STEPS, TIMED_STEPS = 15, 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=OFFICIAL_CLIPS, help="training clips of an epoch")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--bands", type=int, default=512)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--teacher_batch", type=int, default=128)
    parser.add_argument("--parts", default="waits,epoch,steps,teacher", help="what is measured, by commas")
    parser.add_argument("--out", type=Path, default=None, help="folder for profile.txt and gpu.json")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU, for a try only"
    print(f"{name}, torch {torch.__version__}, {args.clips} clips, batch {args.batch}", flush=True)
    bench = Bench(args, device)
    for part in args.parts.split(","):
        begun = time.perf_counter()
        getattr(bench, part)()
        print(f"({part}: {time.perf_counter() - begun:.0f} s)", flush=True)
    if args.out:
        (args.out / "gpu.json").write_text(json.dumps({"card": name, **bench.rows}, indent=1))


@dataclass
class Bench:
    """The measurements, and their rows by name in seconds or shares."""

    args: argparse.Namespace
    device: torch.device

    def __post_init__(self) -> None:
        self.rows: dict[str, float] = {}
        self.clips = make_clips(self.args.clips, self.device)

    def keep(self, name: str, value: float, unit: str) -> None:
        self.rows[f"{name} [{unit}]"] = value
        print(f"{name:64}{value:12.4g} {unit}", flush=True)

    def waits(self) -> None:
        """Which lines of a step make the processor wait for the card, and how busy the card is."""
        task, steps = self.task(), self.stepper(self.task())
        steps(3)
        with synchronizations(self.device) as found:
            steps(5)
        self.keep("waits a step", sum(found.values()) / 5, "waits")
        for place, count in found.most_common(12):
            print(f"   {count / 5:5.1f} a step  {place}")
        if self.device.type == "cuda":
            self.profiled(task)

    def profiled(self, task: ClassifierTask) -> None:
        steps = self.stepper(task)
        steps(WARM_STEPS)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            begun = time.perf_counter()
            steps(10)
            wall = time.perf_counter() - begun
        averages = profiler.key_averages()
        busy = sum(event.self_device_time_total for event in averages) / 1e6
        self.keep("share of the time that the card works (under the profiler)", busy / wall, "share")
        table = averages.table(sort_by="self_cuda_time_total", row_limit=30, max_name_column_width=70)
        if self.args.out:
            (self.args.out / "profile.txt").write_text(table)

    def epoch(self) -> None:
        """Epochs of `fit`, as the stages run them; the first pays for what is made once."""
        for precision in ("32-true", "bf16-mixed"):
            for tf32 in (False, True):
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
                if precision != "32-true" and not tf32:
                    continue
                seconds = self.fitted(precision)
                self.keep(f"epoch of fit, {precision}{', TF32' if tf32 else ''}", seconds, "s")

    def fitted(self, precision: str) -> float:
        clock = EpochClock(self.device)
        validation = self.clips.part(np.arange(len(self.clips)) < 5_000)
        data = ClipDataModule(
            self.clips, validation, batch_size=self.args.batch, seed=0, loading=Loading(workers=0)
        )
        with tempfile.TemporaryDirectory() as folder:
            fit(
                self.task(),
                data,
                epochs=5,
                validated_every=100,
                folder=Path(folder),
                name="epoch",
                callbacks=[clock],
                trainer_options={
                    "accelerator": "auto",
                    "devices": 1,
                    "precision": precision,
                    "enable_progress_bar": False,
                },
            )
        return statistics.median(clock.seconds[1:])

    def steps(self) -> None:
        """Single steps, without Lightning."""
        # Left alone, the compiler puts channels last, where cuDNN takes ten times as long for the stem's
        # grouped convolution.
        inductor.layout_optimization = False
        for name, tf32, half, compiled in (
            ("float32", False, False, False),
            ("TF32", True, False, False),
            ("bf16", True, True, False),
            ("TF32, compiled", True, False, True),
            ("bf16, compiled", True, True, True),
        ):
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            self.step(name, half=half, compiled=compiled)
        self.parts_of_a_step()

    def step(self, name: str, *, half: bool, compiled: bool) -> None:
        task, begun = self.task(), time.perf_counter()
        if compiled:
            task.classifier.network.compile()
        steps = self.stepper(task, half=half)
        steps(WARM_STEPS)
        if compiled:
            self.keep(f"compiling, {name}", time.perf_counter() - begun, "s")
        seconds = timed(lambda: steps(TIMED_STEPS), self.device) / TIMED_STEPS
        self.keep(f"step, {name}", seconds * 1000, "ms")
        epoch = seconds * OFFICIAL_CLIPS / self.args.batch
        self.keep(f"   so an epoch of {OFFICIAL_CLIPS} clips", epoch, "s")

    def parts_of_a_step(self) -> None:
        task, batch = self.task(), self.batch()
        waves, logmel = batch.waveforms, task.classifier.features(batch.waveforms)
        bank = simulated_bank(sample_rate=RATE)
        choice = torch.arange(len(waves)) % len(bank)
        network = task.classifier.network

        def backward() -> None:
            network(logmel).sum().backward()

        for name, function in {
            "log-mel of a batch": lambda: task.classifier.features(waves),
            "impulse responses of a whole batch": lambda: bank.convolve(waves, choice),
            "forward and backward of the network": backward,
            "batch read from the card's memory": self.batch,
        }.items():
            function()
            self.keep(name, timed(lambda f=function: [f() for _ in range(10)], self.device) * 100, "ms")

    def teacher(self) -> None:
        """A teacher of BEATs' size (random weights):
        fine-tuning and logits, against the card's best matrix product."""
        peak = matrix_flops(self.device)
        self.keep("bf16 matrix product of this card", peak / 1e12, "TFLOP/s")
        classifier = build_classifier(
            ModelDescription("beats", SCENES, network={"encoder": BEATS_BASE, "freeze_encoder": False})
        ).to(self.device)
        features = torch.randn(self.args.teacher_batch, 1, 128, 98, device=self.device)
        for name, network in {
            "": classifier.network,
            ", compiled": torch.compile(classifier.network),
        }.items():
            self.teacher_pass(name, network, features, peak)

    def teacher_pass(self, name: str, network: nn.Module, features: Tensor, peak: float) -> None:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
        flops = beats_flops(len(features))

        def logits() -> None:
            network.eval()
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                network(features)

        def learn() -> None:
            network.train()
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = network(features).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        for what, function, passes in (("logits", logits, 1), ("fine-tuning", learn, 3)):
            for _ in range(4):
                function()
            seconds = timed(lambda f=function: [f() for _ in range(10)], self.device) / 10
            self.keep(f"teacher, {what} of {len(features)} clips{name}", seconds * 1000, "ms")
            self.keep("   of that product's speed", passes * flops / seconds / peak, "share")

    def task(self) -> ClassifierTask:
        """Distillation as the report has it."""
        generators = [np.random.default_rng(place) for place in range(3)]
        bank = simulated_bank(sample_rate=RATE)
        p = np.full(len(self.clips), 0.4)
        loss = DistillationLoss(temperature=2.0, weight=0.02, reduction="elements")
        return ClassifierTask(
            self.classifier(),
            loss=lambda logits, labels: loss.parts(logits, labels.targets, labels.teacher_logits),
            measures={"accuracy": with_targets(MacroAccuracy(len(SCENES)))},
            optimizer=adam_with_warm_restarts(lr=0.004, restart_epochs=10, restart_factor=2),
            waveform_augmentations=[
                impulse_responses(DeviceImpulseResponse(bank, p=0.4, generator=generators[0]), p_of_clip=p)
            ],
            feature_augmentations=[
                on_features(FreqMixStyle(p=0.8, alpha=0.4, generator=generators[1])),
                soft_mixup(Mixup(alpha=0.2, generator=generators[2])),
            ],
        ).to(self.device)

    def classifier(self) -> Classifier:
        torch.manual_seed(0)
        return build_classifier(
            ModelDescription("tfsepnet", SCENES, {"bands": self.args.bands}, {"width": self.args.width})
        )

    def batch(self) -> WaveformBatch:
        rows = np.random.default_rng().permutation(len(self.clips))[: self.args.batch]
        batch = self.clips[rows]
        assert isinstance(batch, WaveformBatch)
        return batch._replace(labels=on_device(batch.labels, self.device))

    def stepper(self, task: ClassifierTask, *, half: bool = False) -> Callable[[int], None]:
        """Takes so many training steps."""
        task.log = lambda *_, **__: None  # type: ignore[method-assign]
        optimizer = torch.optim.Adam(task.classifier.network.parameters(), lr=0.004)

        def steps(count: int) -> None:
            for step in range(count):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                    loss = task.training_step(self.batch(), step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return steps


class EpochClock(Callback):
    """Seconds of each epoch, the card's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.begun = device, list[float](), 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, task: Any) -> None:
        wait(self.device)
        self.begun = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, task: Any) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self.begun)


def make_clips(count: int, device: torch.device) -> ClipSet:
    """Noise in the memory of the card."""
    generator = torch.Generator(device).manual_seed(0)
    clips = torch.randn(count, RATE, device=device, generator=generator).mul_(0.05)
    random = np.random.default_rng(0)
    return ClipSet(
        HeldWaveforms(clips, Sample(RATE)),
        tuple(f"{row}.wav" for row in range(count)),
        targets=np.eye(len(SCENES), dtype=np.float32)[random.integers(len(SCENES), size=count)],
        devices=random.integers(DEVICES, size=count),
        teacher_logits=random.standard_normal((count, TEACHERS, len(SCENES))).astype(np.float32),
    )


def on_device(labels: Labels, device: torch.device) -> Labels:
    """As Lightning moves them."""
    return labels._replace(
        targets=labels.targets.to(device, non_blocking=True),
        teacher_logits=labels.teacher_logits.to(device, non_blocking=True),
        device=labels.device.to(device, non_blocking=True),
    )


@contextlib.contextmanager
def synchronizations(device: torch.device) -> Iterator[Counter[str]]:
    """How often which line made the processor wait for the card."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    torch.cuda.set_sync_debug_mode("default")
    found.update(
        f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Median seconds of three calls."""
    seconds = []
    for _ in range(3):
        wait(device)
        begun = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def matrix_flops(device: torch.device, size: int = 8192) -> float:
    """Floating-point operations a second of a product of two bf16 matrices."""
    size = size if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 10 * 2 * size**3 / timed(lambda: [a @ b for _ in range(10)], device)


BEATS_BASE = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "embed_dim": 512,
    "input_patch_size": 16,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "deep_norm": True,
    "layer_norm_first": False,
    "encoder_layerdrop": 0.05,
    "conv_pos": 128,
    "conv_pos_groups": 16,
}
"""The settings of the published checkpoints."""


def beats_flops(clips: int) -> float:
    """Of a forward pass: two for each weight of the Transformer's layers and token,
    and the attention's products."""
    tokens, dim, hidden, layers = 8 * 6, 768, 3072, 12
    weights = 4 * dim * dim + 2 * dim * hidden
    return float(clips * layers * (2 * tokens * weights + 4 * tokens * tokens * dim))


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    main()
