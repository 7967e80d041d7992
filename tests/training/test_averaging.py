from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adaptf.training.averaging import Averaging, averaging_callback

EPOCHS, STEPS = 4, 3
State = dict[str, Tensor]


class Toy(L.LightningModule):
    """A network with batch normalization that keeps copies of its weights as it goes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("window", torch.tensor([0.1, 0.2, 0.7]))
        self.after_step: list[State] = []
        self.validated: list[State] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self.network(batch[0]) - batch[1]).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.after_step.append(copied(self.state_dict()))

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.validated.append(copied(self.state_dict()))
        self.log("val/score", -(self.network(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class StopAfter(Callback):
    """What a process that was killed after so many epochs leaves."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise KeyboardInterrupt


def copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def mean(states: list[State]) -> State:
    return {name: torch.stack([state[name].float() for state in states]).mean(dim=0) for name in states[0]}


def assert_close(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name in left:
        if left[name].is_floating_point():
            torch.testing.assert_close(left[name], right[name].float(), msg=name)


def assert_equal(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def fitted(
    folder: Path, kind: Averaging, *, share: float = 0.5, resume: bool = False, stop_after: int = EPOCHS
) -> Toy:
    x = torch.randn(STEPS * 4, 3, generator=torch.Generator().manual_seed(1))
    loader: Any = DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=4)
    averaging = averaging_callback(kind, max_epochs=EPOCHS, share=share, ema_decay=0.6)
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, "best", monitor="val/score", mode="max", enable_version_counter=False),
        ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False),
        ModelCheckpoint(
            folder, "epoch{epoch}", monitor="val/score", save_top_k=-1, auto_insert_metric_name=False
        ),
        StopAfter(stop_after),
    ]
    toy = Toy()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        callbacks=callbacks + ([averaging] if averaging else []),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(
            toy,
            loader,
            loader_of_one(loader),
            ckpt_path=folder / "last.ckpt" if resume else None,
            weights_only=True,
        )
    except SystemExit:  # what Lightning makes of a KeyboardInterrupt
        assert stop_after < EPOCHS
    return toy


def loader_of_one(loader: Any) -> Any:
    return DataLoader(loader.dataset, batch_size=len(loader.dataset))


def saved(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_none_is_no_callback() -> None:
    assert averaging_callback("none", max_epochs=4, share=0.5, ema_decay=0.9) is None


def test_swa_is_the_mean_of_the_last_epochs_weights(tmp_path: Path) -> None:
    toy = fitted(tmp_path, "swa")
    ends = toy.after_step[STEPS - 1 :: STEPS]
    expected = mean(ends[2:])
    assert_close(toy.state_dict(), expected)
    assert_close(saved(tmp_path / "last.ckpt")["state_dict"], expected)
    assert_close(saved(tmp_path / "last.ckpt")["current_model_state"], ends[3])


def test_ema_is_an_equal_average_at_first_and_then_decays(tmp_path: Path) -> None:
    toy = fitted(tmp_path, "ema")
    expected = toy.after_step[0]
    for step, state in enumerate(toy.after_step[1:], start=1):
        own = max(0.4, 1 / (step + 1))
        expected = {name: (1 - own) * expected[name] + own * state[name] for name in state}
    assert_close(toy.state_dict(), expected)


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_numbers_of_batches_are_the_current_ones_and_constants_stay_exact(
    tmp_path: Path, kind: Averaging
) -> None:
    state = fitted(tmp_path, kind).state_dict()
    assert state["network.1.num_batches_tracked"].item() == EPOCHS * STEPS
    assert torch.equal(state["window"], torch.tensor([0.1, 0.2, 0.7]))


def test_until_swa_begins_the_current_weights_are_validated_and_saved(tmp_path: Path) -> None:
    toy = fitted(tmp_path, "swa")
    ends = toy.after_step[STEPS - 1 :: STEPS]
    for epoch, expected in enumerate([ends[0], ends[1], ends[2], mean(ends[2:])]):
        assert_close(toy.validated[epoch], expected)
        assert_equal(saved(tmp_path / f"epoch{epoch}.ckpt")["state_dict"], toy.validated[epoch])


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_the_best_checkpoint_holds_the_weights_that_had_its_score(tmp_path: Path, kind: Averaging) -> None:
    toy = fitted(tmp_path, kind)
    best = saved(tmp_path / "best.ckpt")
    assert_equal(best["state_dict"], toy.validated[best["epoch"]])


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_averaging_does_not_change_the_training(tmp_path: Path, kind: Averaging) -> None:
    plain, averaged = fitted(tmp_path / "plain", "none"), fitted(tmp_path / kind, kind)
    for left, right in zip(plain.after_step, averaged.after_step, strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("kind", ["swa", "ema"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, kind: Averaging, stop_after: int
) -> None:
    through = fitted(tmp_path / "through", kind)
    fitted(tmp_path / "resumed", kind, stop_after=stop_after)
    resumed = fitted(tmp_path / "resumed", kind, resume=True)
    assert_equal(resumed.state_dict(), through.state_dict())
    for left, right in zip(resumed.after_step, through.after_step[stop_after * STEPS :], strict=True):
        assert_equal(left, right)
    for left, right in zip(resumed.validated, through.validated[stop_after:], strict=True):
        assert_equal(left, right)
    ended, expected = saved(tmp_path / "resumed/last.ckpt"), saved(tmp_path / "through/last.ckpt")
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert_equal(ended[part], expected[part])


@pytest.mark.parametrize(("share", "epochs"), [(0.01, 1), (0.25, 1), (0.75, 3), (1.0, 4)])
def test_swa_averages_its_share_of_the_epochs_but_at_least_one(
    tmp_path: Path, share: float, epochs: int
) -> None:
    toy = fitted(tmp_path, "swa", share=share)
    assert_close(toy.state_dict(), mean(toy.after_step[STEPS - 1 :: STEPS][-epochs:]))


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"at most 1, got {share}"):
        averaging_callback("swa", max_epochs=4, share=share, ema_decay=0.9)


@pytest.mark.parametrize("ema_decay", [0.0, 1.0])
def test_a_decay_of_0_or_1_is_refused(ema_decay: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, got {ema_decay}"):
        averaging_callback("ema", max_epochs=4, share=0.5, ema_decay=ema_decay)
