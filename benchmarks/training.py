"""Speed of training and validating TF-SepNet-64 on a CPU against the public trainer's way, plainly written:
pairs that take turns, medians, ratios.

python benchmarks/training.py

"Plain" is the same network with residual normalization as its formula stands, a dense log-mel (torch.stft,
one product with the whole filterbank), all clips of a batch at once, and the system's settings of memory. A
step is log-mel, forward, backward and Adam on noise; reading clips and augmentations are in
benchmarks/data.py. Each side is a process of its own, since settings of memory can't be taken back.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch
from measure import machine
from routers import RATE, DenseLogMel, plainly_written
from torch import Tensor, nn

from adaptf.data.clip_set import ClipSet, clip_set
from adaptf.data.processes import process_pool
from adaptf.data.sources import HeldFeatures, HeldWaveforms, Sample
from adaptf.evaluation.predict import predict_logits
from adaptf.models.classifier import Classifier, ModelDescription, build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.training.memory import keep_freed_memory

CLASSES = tuple("abcdefghij")
STEP, VALIDATION, FROM_LOG_MELS = "training step", "validation", "validation, log-mels kept"
PLAIN, OURS = "plain", "ours"


class Side:
    """One way of training, in its own process."""

    def __init__(self, way: str, batch: int, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.classifier = build_classifier(ModelDescription(TFSEPNET, CLASSES))
        if way == PLAIN:
            network = plainly_written(self.classifier.network)
            self.classifier = Classifier(self.classifier.description, DenseLogMel(), network)
        else:
            keep_freed_memory()
        self.way, self.batch = way, batch
        self.waveforms, self.targets = 0.1 * torch.randn(batch, RATE), torch.arange(batch) % len(CLASSES)
        self.log_mels = self.classifier.features(self.waveforms)
        self.optimizer = torch.optim.Adam(self.classifier.network.parameters())

    def measured(self, what: str) -> tuple[float, float]:
        """Seconds by the wall clock and of the processors."""
        done = {STEP: self.step, VALIDATION: self.validate, FROM_LOG_MELS: self.validate_log_mels}[what]
        self.classifier.train(what == STEP)
        wall, processor = time.perf_counter(), time.process_time()
        done()
        return time.perf_counter() - wall, time.process_time() - processor

    def step(self) -> None:
        with torch.no_grad():
            log_mels = self.classifier.features(self.waveforms)
        loss = nn.functional.cross_entropy(self.classifier.network(log_mels), self.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def validate(self) -> None:
        if self.way == OURS:
            predict_logits(self.classifier, self.clips(HeldWaveforms(self.waveforms, Sample(RATE))))
        else:
            self.answer_plainly(lambda: self.classifier(self.waveforms))

    def validate_log_mels(self) -> None:
        if self.way == OURS:
            predict_logits(self.classifier.network, self.clips(HeldFeatures(self.log_mels)))
        else:
            self.answer_plainly(lambda: self.classifier.network(self.log_mels))

    @torch.inference_mode()
    def answer_plainly(self, answer: Callable[[], Tensor]) -> None:
        answer()

    def clips(self, source: HeldWaveforms | HeldFeatures) -> ClipSet:
        targets = np.eye(len(CLASSES), dtype=np.float32)[self.targets.numpy()]
        names = tuple(str(number) for number in range(self.batch))
        return clip_set(names, source, targets=targets, devices=np.zeros(self.batch, dtype=np.int64))


side = cache(Side)


def measured(way: str, batch: int, threads: int, what: str) -> tuple[float, float]:
    """In the process of that side."""
    return side(way, batch, threads).measured(what)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}, torch {torch.__version__}, batch {args.batch}; medians of {args.repeats}\n")
    print("| ms a clip | plain | adaptf | ratio | of processor time |\n|---|---:|---:|---:|---:|")
    with process_pool(1, fresh=True) as plain, process_pool(1, fresh=True) as ours:
        pools = {PLAIN: plain, OURS: ours}
        for what in (STEP, VALIDATION, FROM_LOG_MELS):
            taken = taking_turns(pools, args, what)
            (plain_ms, plain_cpu), (our_ms, our_cpu) = taken[PLAIN], taken[OURS]
            ratios = f"{plain_ms / our_ms:.1f}x | {plain_cpu / our_cpu:.1f}x"
            print(f"| {what} | {plain_ms:.2f} | {our_ms:.2f} | {ratios} |", flush=True)


def taking_turns(
    pools: Mapping[str, ProcessPoolExecutor], args: argparse.Namespace, what: str
) -> dict[str, tuple[float, float]]:
    """Of each side medians in ms a clip, by the wall clock and of the processors, first passes left out."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in pools}
    for _ in range(args.repeats + 1):
        for way, pool in pools.items():
            taken[way].append(pool.submit(measured, way, args.batch, args.threads, what).result())
    return {
        way: tuple(1000 * statistics.median(clock) / args.batch for clock in zip(*seconds[1:], strict=True))
        for way, seconds in taken.items()
    }


if __name__ == "__main__":
    main()
