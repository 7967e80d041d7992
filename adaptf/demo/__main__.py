"""Writes the demo data: synthesised sounds in the layouts of TAU 2022 Mobile and of AudioSet."""

from pathlib import Path

from jsonargparse import auto_cli

from adaptf.demo.data_sets import write_demo


def demo_data(folder: Path = Path("demo_data"), seed: int = 0) -> None:
    """Writes the demo data into a folder; a complete set that is there already is kept."""
    print(write_demo(folder, seed=seed), flush=True)


if __name__ == "__main__":
    auto_cli(demo_data)
