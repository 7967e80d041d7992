"""What a teacher of 90 million parameters costs in every epoch against once:
pairs in one run, medians, ratios.

python benchmarks/teachers.py
"""

from collections.abc import Iterator

import numpy as np
import torch
from kept import Pair, command_line, keep, show
from measure import Ways, machine, measure_pair
from torch import nn

from adaptf.data.batch import Labels, WaveformBatch
from adaptf.models.classifier import Classifier, ModelDescription, build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.models.teachers.beats import BeatsClassifier, BeatsEncoder, BeatsFeatures
from adaptf.training.memory import keep_freed_memory

BATCH, REPEATS, CLASSES, TEACHERS = 16, 5, tuple("abcdefghij"), 3


def main() -> None:
    """Prints a table of medians."""
    args = command_line(__doc__).parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    network = BeatsClassifier(BeatsEncoder({}), classes=len(CLASSES), freeze_encoder=True)
    beats = Classifier(ModelDescription("beats", CLASSES), BeatsFeatures(), network).eval()
    print(f"{machine()}, batch {BATCH}, medians of {REPEATS}\n")
    keep(show(pairs(beats, network)), args.keep)


def pairs(beats: Classifier, network: BeatsClassifier) -> Iterator[Pair]:
    for what, plain, ours in (frozen_step(beats, network), distillation_step(beats)):
        yield Pair(what, *measure_pair(plain, ours, clips=BATCH, repeats=REPEATS))


def step(module: nn.Module, inputs: torch.Tensor) -> None:
    """Forward and backward."""
    nn.functional.cross_entropy(module(inputs), torch.zeros(len(inputs), dtype=torch.int64)).backward()


def frozen_step(beats: Classifier, network: BeatsClassifier) -> Ways:
    """Training the linear layer behind BEATs."""
    waveforms, embeddings = torch.randn(BATCH, 32000), torch.randn(BATCH, network.encoder.dim)
    return (
        "SSL*, a step: encoder on waveforms, cached embeddings",
        lambda: step(beats, waveforms),
        lambda: step(network.classifier, embeddings),
    )


def distillation_step(beats: Classifier) -> Ways:
    """Training TF-SepNet-64 with three teachers."""
    student = build_classifier(ModelDescription(TFSEPNET, CLASSES)).train()
    waveforms = torch.randn(BATCH, 32000)
    logits, device = torch.zeros(BATCH, TEACHERS, 10), torch.zeros(BATCH, dtype=torch.int64)
    cached = WaveformBatch(waveforms, Labels(torch.zeros(BATCH, 10), logits, device, np.arange(BATCH)))

    def hear(batch: WaveformBatch) -> WaveformBatch:
        with torch.no_grad():
            heard = torch.stack([beats(batch.waveforms) for _ in range(TEACHERS)], dim=1)
        return batch._replace(labels=batch.labels._replace(teacher_logits=heard))

    def learn(batch: WaveformBatch) -> None:
        nn.functional.mse_loss(student(batch.waveforms), batch.labels.teacher_logits.mean(dim=1)).backward()

    return (
        "distill, a step: three teachers run, cached logits",
        lambda: learn(hear(cached)),
        lambda: learn(cached),
    )


if __name__ == "__main__":
    main()
