import math
from typing import Any

import lightning as L
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric

from adaptf.training.metrics import MacroAccuracy, MeanAveragePrecision, MeanDPrime, TeacherAgreement

CLIPS, CLASSES, BATCH = 60, 5, 7


@pytest.fixture
def logits() -> Tensor:
    """Half of the classes have logits that occur more than once."""
    logits = torch.randn(CLIPS, CLASSES, generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(CLASSES) % 2 == 0, logits.mul(2).round(), logits)


@pytest.fixture
def labels() -> Tensor:
    """The last but one class never occurs, the last one always does."""
    labels = (torch.rand(CLIPS, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    labels[:, -2], labels[:, -1] = 0, 1
    return labels


def updated(metric: Any, logits: Tensor, targets: Tensor) -> Any:
    for batch in zip(logits.split(BATCH), targets.split(BATCH), strict=True):
        metric.update(*batch)
    return metric


def test_macro_accuracy_weighs_scenes_alike_and_forgets_absent_ones() -> None:
    metric = MacroAccuracy(3)
    metric.update(torch.eye(3)[[0, 0, 0, 1]], torch.eye(3)[[0, 0, 0, 0]])
    metric.update(torch.eye(3)[[1]], torch.eye(3)[[1]])
    assert float(metric.compute()) == pytest.approx((0.75 + 1.0) / 2)
    metric.reset()
    metric.update(torch.eye(3)[[2]], torch.eye(3)[[1]])
    assert float(metric.compute()) == 0


def test_the_mean_over_devices_weighs_them_alike_and_forgets_absent_ones() -> None:
    """Of device 0 half of scene 0 and nothing of scene 1 is right, of device 1 there are no clips,
    of device 2 scene 1 is."""
    metric = MacroAccuracy(3, devices=3)
    metric.update(torch.eye(3)[[0, 1, 1]], torch.eye(3)[[0, 0, 0]], torch.tensor([0, 0, 2]))
    metric.update(torch.eye(3)[[2, 0, 1]], torch.eye(3)[[1, 1, 1]], torch.tensor([0, 0, 2]))
    assert float(metric.compute()) == pytest.approx(((0.5 + 0.0) / 2 + (0.0 + 1.0) / 2) / 2)
    metric.reset()
    assert math.isnan(float(metric.compute()))


def test_mean_average_precision_is_over_the_classes_that_occur(logits: Tensor, labels: Tensor) -> None:
    expected = [
        average_precision_score(labels[:, column].numpy(), logits[:, column].numpy())
        for column in (0, 1, 2, 4)
    ]
    assert float(updated(MeanAveragePrecision(CLASSES), logits, labels).compute()) == pytest.approx(
        sum(expected) / 4, abs=1e-6
    )


def test_d_prime_is_that_of_the_mean_area_over_classes_with_positives_and_negatives(
    logits: Tensor, labels: Tensor
) -> None:
    areas = [roc_auc_score(labels[:, column].numpy(), logits[:, column].numpy()) for column in range(3)]
    expected = math.sqrt(2) * norm.ppf(sum(areas) / 3)
    assert float(updated(MeanDPrime(CLASSES), logits, labels).compute()) == pytest.approx(expected, abs=1e-5)


def test_logits_that_tell_nothing_have_a_d_prime_of_zero_and_perfect_ones_a_large_one() -> None:
    labels = torch.tensor([[1.0], [0.0], [1.0]]).expand(3, 2)
    metric = MeanDPrime(2)
    metric.update(torch.zeros(3, 2), labels)
    assert float(metric.compute()) == pytest.approx(0, abs=1e-6)
    metric.reset()
    metric.update(labels, labels)
    assert 6 < float(metric.compute()) < 7


def test_batches_of_logits_between_0_and_1_are_taken_for_logits() -> None:
    logits = torch.tensor([[0.9], [0.6], [-3.0], [4.0]]).expand(4, 2)
    labels = torch.tensor([[0.0], [1.0], [0.0], [1.0]]).expand(4, 2)
    metric = MeanAveragePrecision(2)
    for batch in zip(logits.split(2), labels.split(2), strict=True):
        metric.update(*batch)
    assert float(metric.compute()) == pytest.approx(
        average_precision_score(labels[:, 0].numpy(), logits[:, 0].numpy())
    )


def test_agreement_is_the_share_of_clips_with_the_same_largest_logit() -> None:
    metric = TeacherAgreement()
    metric.update(torch.eye(3)[[0, 1, 2]], 5 * torch.eye(3)[[0, 2, 2]])
    metric.update(torch.eye(3)[[1]], torch.eye(3)[[1]])
    assert float(metric.compute()) == pytest.approx(0.75)


class Scorer(L.LightningModule):
    """Logs the metrics of what it is fed: logits and targets."""

    def __init__(self, metrics: dict[str, Metric]) -> None:
        super().__init__()
        self.metrics, self.weight = torch.nn.ModuleDict(metrics), torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        for name, metric in self.metrics.items():
            metric.update(batch[0] + self.current_epoch * batch[1], batch[1])
            self.log(f"val/{name}", metric, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.seen.append({name: float(value) for name, value in self.trainer.callback_metrics.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def all_metrics() -> dict[str, Metric]:
    return {
        "accuracy": MacroAccuracy(CLASSES),
        "precision": MeanAveragePrecision(CLASSES),
        "d_prime": MeanDPrime(CLASSES),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_logs_the_metrics_of_each_epoch_alone(logits: Tensor, labels: Tensor) -> None:
    scorer = Scorer(all_metrics())
    loader: Any = DataLoader(TensorDataset(logits, labels), batch_size=BATCH)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(scorer, loader, loader)
    for epoch, seen in enumerate(scorer.seen):
        expected = {
            name: updated(metric, logits + epoch * labels, labels).compute()
            for name, metric in all_metrics().items()
        }
        assert seen == {f"val/{name}": pytest.approx(float(value)) for name, value in expected.items()}
    assert len({seen[name] for seen in scorer.seen for name in seen}) > 2
