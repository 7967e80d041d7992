"""Who is told of a training's validations, and what comes of what they raise."""

from types import SimpleNamespace

import pytest

from adaptf.training.fit import Watched

TASK = SimpleNamespace(score_name="accuracy")


def trainer(epoch, score, sanity_checking=False):
    return SimpleNamespace(
        current_epoch=epoch, callback_metrics={"val/accuracy": score}, sanity_checking=sanity_checking
    )


def test_a_watch_hears_the_epochs_that_are_done_and_their_score():
    told = []
    watched = Watched(lambda *values: told.append(values))
    for made in (trainer(0, 0.1, sanity_checking=True), trainer(0, 0.25), trainer(1, 0.5)):
        watched.on_validation_end(made, TASK)
    assert told == [(1, 0.25), (2, 0.5)]


def test_what_a_watch_raises_is_not_changed():
    def stop(epoch, score):
        raise LookupError(f"{score} after {epoch}")

    with pytest.raises(LookupError, match=r"0\.5 after 3"):
        Watched(stop).on_validation_end(trainer(2, 0.5), TASK)
