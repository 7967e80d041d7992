"""Speed of training and validating TF-SepNet-64 on a CPU against the public trainer's way, plainly written:
pairs that take turns, medians, ratios.

python benchmarks/training.py --batch 256

"Plain" is the same network with residual normalization as its formula stands, a dense log-mel (torch.stft,
one product with the whole filterbank), all clips of a batch at once, and the system's settings of memory. A
step is log-mel, forward, backward and Adam on noise; reading clips and augmentations are in
benchmarks/data.py. Each side is a process of its own, since settings of memory can't be taken back.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch
from kept import Pair, command_line, keep, show
from measure import machine, seconds_of
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
STEP, VALIDATION = "training step: plain, ours", "validation: plain, ours"
FROM_LOG_MELS = "validation with log-mels kept: plain, ours"
GOALS = {STEP: 5.0, VALIDATION: 8.0, FROM_LOG_MELS: None}
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

    def seconds(self, what: str) -> float:
        self.classifier.train(what == STEP)
        ways = {STEP: self.step, VALIDATION: self.validate, FROM_LOG_MELS: self.validate_log_mels}
        return seconds_of(ways[what])

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


def seconds(way: str, batch: int, threads: int, what: str) -> float:
    """In the process of that side."""
    return side(way, batch, threads).seconds(what)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}, torch {torch.__version__}, batch {args.batch}; medians of {args.repeats}\n")
    with process_pool(1, fresh=True) as plain, process_pool(1, fresh=True) as ours:
        keep(show(pairs({PLAIN: plain, OURS: ours}, args)), args.keep)


def pairs(pools: Mapping[str, ProcessPoolExecutor], args: argparse.Namespace) -> Iterator[Pair]:
    """The first passes, which pay for fresh memory, are left out."""
    for what, goal in GOALS.items():
        taken: dict[str, list[float]] = {way: [] for way in pools}
        for _ in range(args.repeats + 1):
            for way, pool in pools.items():
                taken[way].append(pool.submit(seconds, way, args.batch, args.threads, what).result())
        ms = {way: 1000 * statistics.median(found[1:]) / args.batch for way, found in taken.items()}
        yield Pair(what, ms[PLAIN], ms[OURS], least_ratio=goal)


if __name__ == "__main__":
    main()
