"""Pictures of a sweep: what its trials scored, which fields matter, and where the good values lie."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from optuna.study import Study
from optuna.trial import TrialState
from optuna.visualization import matplotlib as pictures

from adaptf.reports.figures import BLUE, DEVICE_COLOURS, GREY, save

_ORANGE = DEVICE_COLOURS[1]
_FEWEST = 3
"""Complete trials without which there is nothing to see."""


def sweep_figures(study: Study, folder: Path, *, score: str) -> tuple[list[Path], dict[str, str]]:
    """PNG files of the trials, whose values are called `score`,
    and the pictures that can't be made with why not."""
    if (found := len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))) < _FEWEST:
        return [], {"trials": f"it needs {_FEWEST} complete trials, there are {found}"}
    fields = max(len(trial.params) for trial in study.get_trials(deepcopy=False))
    drawings: dict[str, tuple[Callable[[Study], Any], tuple[float, float]]] = {
        "history": (partial(pictures.plot_optimization_history, target_name=score), (9, 4.5)),
        "importances": (partial(pictures.plot_param_importances, target_name=score), (8, 1.5 + 0.5 * fields)),
        "slices": (partial(pictures.plot_slice, target_name=score), (2 + 3 * fields, 4.2)),
        "epochs": (partial(_epochs, name=score), (8, 4.5)),
    }
    if fields > 1:
        drawings["contours"] = (
            partial(pictures.plot_contour, target_name=score),
            (2 + 3.4 * fields, 1 + 3 * fields),
        )
    drawn, impossible = [], {}
    for name, (draw, size) in drawings.items():
        try:
            drawn.append(_drawn(partial(draw, study), size, folder / f"{name}.png"))
        except (ValueError, RuntimeError, ArithmeticError) as error:
            impossible[name] = str(error) or type(error).__name__
    return drawn, impossible


def _drawn(draw: Callable[[], Any], size: tuple[float, float], path: Path) -> Path:
    """Optuna changes the style of all figures: here only that of this one."""
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            draw()
            return save(_tidied(plt.gcf(), size), path)
        finally:
            plt.close("all")


def _tidied(figure: Figure, size: tuple[float, float]) -> Figure:
    """In a size in which names don't overlap, with 1, 3, 10 on logarithmic axes (of short ones 1, 2, 5)."""
    figure.set_size_inches(*size)
    figure.set_layout_engine(
        "tight" if len(figure.axes) == 2 else "constrained"
    )  # beside a single panel's bar
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=(1, 3) if high > 20 * low else (1, 2, 5)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_locator(NullLocator())
    return figure


def _epochs(study: Study, *, name: str) -> None:
    """Optuna's own has a colour and a line of the legend for each trial."""
    shown = [trial for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]
    if not shown:
        raise ValueError("no trial was watched while it trained")
    axes = plt.figure().add_subplot()
    for trial in shown:
        colour = _ORANGE if trial.state == TrialState.PRUNED else GREY
        best = trial.number == study.best_trial.number
        look: dict[str, Any] = {"color": BLUE, "linewidth": 2.5, "zorder": 3} if best else {"color": colour}
        axes.plot(*zip(*sorted(trial.intermediate_values.items()), strict=True), **{"linewidth": 1} | look)
    colours = {"best trial": BLUE, "others": GREY, "ended early": _ORANGE}
    axes.legend(handles=[Line2D([], [], color=colour, label=label) for label, colour in colours.items()])
    axes.set(title="Best validation until then", xlabel="epochs", ylabel=name)
