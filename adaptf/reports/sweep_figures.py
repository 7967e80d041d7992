"""Pictures of a sweep: what its trials scored, which fields matter, and where the good values lie."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as pictures

from adaptf.reports.figures import BLUE, DEVICE_COLOURS, GREY, save

ORANGE = DEVICE_COLOURS[1]
FEWEST = 3
"""Complete trials without which there is nothing to see."""


def sweep_figures(
    trials: Sequence[FrozenTrial], folder: Path, *, objectives: Sequence[str], labels: Mapping[str, str]
) -> tuple[list[Path], dict[str, str]]:
    """PNG files of the trials, and the pictures that can't be made with why not.

    `objectives`: what the pictures call the values; all but the front show the first one. `labels`: so of each field.
    """
    fields = len(labels)
    drawings: dict[str, Callable[[Study], None]] = {
        "history": lambda study: _history(study, objectives[0]),
        "importances": lambda study: _importances(study, objectives[0]),
        "slices": lambda study: _slices(study, objectives[0], fields),
        "contours": lambda study: _contours(study, objectives[0], fields),
        "parallel_coordinates": lambda study: _parallel(study, objectives[0], fields),
        "epochs": lambda study: _epochs(study, objectives[0]),
        "pareto_front": lambda study: _front(study, objectives),
    }
    left_out = {"contours"} if fields < 2 else set()
    left_out |= {"epochs" if len(objectives) > 1 else "pareto_front"}
    drawn, impossible = [], {}
    for name, draw in drawings.items():
        if name in left_out:
            continue
        study = study_of(trials, labels, objectives=len(objectives) if name == "pareto_front" else 1)
        try:
            drawn.append(_drawn(draw, study, folder / f"{name}.png"))
        except (ValueError, RuntimeError, ArithmeticError) as error:
            impossible[name] = str(error) or type(error).__name__
    return drawn, impossible


def study_of(trials: Sequence[FrozenTrial], labels: Mapping[str, str], *, objectives: int) -> Study:
    """A study in memory of the complete and pruned trials, of their first objectives, whose fields have short names."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(directions=["maximize"] * objectives)
    optuna.logging.set_verbosity(verbosity)
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values[:objectives] if trial.values else None,
                params={labels[name]: value for name, value in trial.params.items()},
                distributions={labels[name]: distribution for name, distribution in trial.distributions.items()},
                intermediate_values=trial.intermediate_values,
            )
        )
    return study


def complete(study: Study) -> list[FrozenTrial]:
    """Its trials that have a score to the end."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def _drawn(draw: Callable[[Study], None], study: Study, path: Path) -> Path:
    """Optuna changes the style of all figures: here only that of this one."""
    if (found := len(complete(study))) < FEWEST:
        raise ValueError(f"it needs {FEWEST} complete trials, there are {found}")
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            draw(study)
            return save(_with_plain_ticks(plt.gcf()), path)
        finally:
            plt.close("all")


def _sized(width: float, height: float, *, layout: Literal["constrained", "tight"] = "constrained") -> Figure:
    """The constrained layout can't place a colour bar that takes its room from a single panel."""
    figure = plt.gcf()
    figure.set_size_inches(width, height)
    figure.set_layout_engine(layout)
    return figure


def _with_plain_ticks(figure: Figure) -> Figure:
    """1, 3, 10 on logarithmic axes (of short ones 1, 2, 5), where 2 x 10^0 beside 3 x 10^0 would overlap."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=(1, 3) if high > 20 * low else (1, 2, 5)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_locator(NullLocator())
    return figure


def _titled(axes: Axes, title: str) -> None:
    axes.set_title("")
    axes.set_title(title, loc="left")


def _history(study: Study, name: str) -> None:
    axes: Axes = pictures.plot_optimization_history(study, target_name=name)
    _titled(axes, "Complete trials in their order")
    axes.set_xlabel("trial")
    axes.set_ylabel(name)
    axes.legend(["trial", "best so far"], loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    _sized(8, 4.5)


def _importances(study: Study, name: str) -> None:
    axes: Axes = pictures.plot_param_importances(study, target_name=name)
    _titled(axes, f"What decides {name}")
    axes.set_xlabel("importance (PED-ANOVA)")
    axes.set_ylabel("")
    axes.set_xlim(right=1.12 * axes.get_xlim()[1])  # room for the figure at the longest bar
    if legend := axes.get_legend():
        legend.remove()
    _sized(8, 1.5 + 0.5 * len(axes.get_yticks()))


def _slices(study: Study, name: str, fields: int) -> None:
    pictures.plot_slice(study, target_name=name)
    figure = _sized(max(5.0, 1 + 3.2 * fields), 4.2, layout="tight" if fields == 1 else "constrained")
    figure.suptitle("")
    for axes in figure.axes:
        if fields == 1:
            axes.set_title("")
        words = [text.get_text() for text in axes.get_xticklabels()]
        if any(word.startswith("'") for word in words):
            axes.set_xticks(axes.get_xticks(), [word.strip("'") for word in words])


def _contours(study: Study, name: str, fields: int) -> None:
    pictures.plot_contour(study, target_name=name)
    if fields == 2:
        plt.gcf().axes[0].set_title("")
        _sized(7, 5, layout="tight")
        return
    _sized(1.5 + 3.2 * fields, 3.2 * fields).suptitle("")


def _parallel(study: Study, name: str, fields: int) -> None:
    axes: Axes = pictures.plot_parallel_coordinate(study, target_name=name)
    axes.set_title("")
    axes.set_xticks(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], rotation=0)
    axes.tick_params(axis="x", length=0, pad=14)  # below the lowest values of the fields
    axes.collections[-1].set_cmap("cividis_r")  # the lightest blue is white
    _sized(max(7.0, 3 + 1.8 * fields), 4.8, layout="tight")


def _epochs(study: Study, name: str) -> None:
    shown = [trial for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]
    if not shown:
        raise ValueError("no trial was watched while it trained")
    axes: Axes = pictures.plot_intermediate_values(study)
    best = study.best_trial.number
    for line, trial in zip(axes.get_lines(), shown, strict=True):
        pruned = trial.state == TrialState.PRUNED
        line.set(color=ORANGE if pruned else GREY, alpha=0.8, linewidth=1)
        if trial.number == best:
            line.set(color=BLUE, alpha=1, linewidth=2.5, zorder=3)
    axes.legend(
        handles=[
            Line2D([], [], color=colour, linewidth=2, label=label)
            for colour, label in ((BLUE, "best trial"), (GREY, "complete"), (ORANGE, "ended early"))
        ],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
    )
    _titled(axes, "Validations of the trials")
    axes.set_xlabel("epochs")
    axes.set_ylabel(name)
    axes.set_facecolor("white")  # grey lines would be lost on Optuna's grey
    axes.grid(color="#EEEEEE")
    _sized(8, 4.5)


def _front(study: Study, objectives: Sequence[str]) -> None:
    axes: Axes = pictures.plot_pareto_front(study, target_names=list(objectives))
    _titled(axes, "Trials, and the front of those that no other one beats in both")
    *others, front = axes.collections
    front.set(color=ORANGE, edgecolor="black", label="front", zorder=3)
    for points in others:
        points.set(color=BLUE, label="others")
    axes.legend()
    _sized(7, 5)
