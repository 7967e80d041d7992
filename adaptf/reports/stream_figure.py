"""Picture of a stream: how probable each scene was over time."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from adaptf.reports.figures import as_written, save


def stream_figure(probabilities: pd.DataFrame, path: Path) -> Path:
    """A row per second, a column per scene."""
    seconds, scenes = probabilities.shape
    figure = Figure(figsize=(10, 0.32 * scenes + 1.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        probabilities.to_numpy().T * 100,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=100,
        interpolation="nearest",
        extent=(0, seconds, scenes - 0.5, -0.5),
    )
    axis.set_yticks(range(scenes), [as_written(str(scene)) for scene in probabilities.columns])
    axis.set_xlabel("seconds")
    figure.colorbar(image, ax=axis, label="probability in %")
    return save(figure, path)
