"""Draws docs/clips.png: the challenge's 25 % split of TAU 2022 Mobile as `prepare` cuts it,
from the names in the package."""

from pathlib import Path

import pandas as pd

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.sets.published_lists import tau_split
from adaptf.data.sets.split import cut_by_location
from adaptf.pipeline.config import DataConfig
from adaptf.reports.data_figures import clips_figure


def tau_table() -> pd.DataFrame:
    """A name is audio/<scene>-<city>-<location>-<recording>-<segment>-<device>.wav."""
    names = pd.concat([tau_split("25"), tau_split("test")], ignore_index=True)
    parts = names.str.removeprefix("audio/").str.removesuffix(".wav").str.split("-", expand=True)
    table = pd.DataFrame(
        {"filename": names, "scene": parts[0], "device": parts[5], "location": parts[1] + "-" + parts[2]}
    )
    table["split"] = [TRAIN] * len(tau_split("25")) + [TEST] * len(tau_split("test"))
    return cut_by_location(
        table, share=DataConfig().validation_share, to=VALIDATION, seed=DataConfig().split_seed
    )


if __name__ == "__main__":
    clips_figure(tau_table(), Path(__file__).parent / "clips.png")
