"""Draws docs/way_of_the_data.png, the picture in the README."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#CFE3F2", "#FBE3B9", "#CBE8DC", "#EDEDED"
WIDTH, HEIGHT = 1.72, 0.86

BOXES = [
    # column, row, text, colour
    (0, 1, "audio files\nTAU, own CSV", GREY),
    (1, 1, "prepare\nclip table,\nwaveform cache", BLUE),
    (0, 2, "AudioSet", GREY),
    (1, 2, "prepare\nwaveform cache", BLUE),
    (2, 2, "pretrain\nTF-SepNet,\n527 labels", BLUE),
    (3, 1, "train\nten scenes", BLUE),
    (3, 0, "teacher (x3)\nBEATs, logits\nby file name", ORANGE),
    (4, 1, "distill\nsoft mixup,\nT = 2, w = 0.02", BLUE),
    (5, 1, "finetune\na b c s1 s2 s3\nunknown", BLUE),
    (6, 1, "quantize\nINT8,\n≤ 128,000 bytes", GREEN),
    (7, 1, "register,\npromote", GREEN),
    (8, 1, "device router\nHTTP, predict", GREEN),
    (6, 0, "evaluate\ntables", ORANGE),
]
ARROWS = [
    (0, 1), (2, 3), (3, 4), (1, 5), (4, 5), (1, 6), (5, 7), (6, 7), (6, 8), (7, 8), (8, 9), (9, 10), (10, 11),
    (8, 12), (9, 12),
]  # fmt: skip


def corner(column: float, row: float) -> tuple[float, float]:
    """Lower left corner of a box."""
    return column * 2.2, row * 1.35


def draw(path: Path) -> None:
    """Boxes are stages; each arrow is an artifact that the next stage pulls by run id."""
    figure = Figure(figsize=(14, 3.5), layout="constrained")
    axis = figure.subplots()
    for column, row, text, colour in BOXES:
        x, y = corner(column, row)
        box = FancyBboxPatch(
            (x, y), WIDTH, HEIGHT, boxstyle="round,pad=0.06", facecolor=colour, edgecolor="#444444", lw=0.8
        )
        axis.add_patch(box)
        axis.text(x + WIDTH / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=9.5)
    for start, end in ARROWS:
        x0, y0 = corner(*BOXES[start][:2])
        x1, y1 = corner(*BOXES[end][:2])
        same_column = x0 == x1
        past_a_box = x1 - x0 > corner(1, 0)[0] and y1 > y0
        tail = (x0 + WIDTH / 2, y0 - 0.06) if same_column else (x0 + WIDTH + 0.06, y0 + HEIGHT / 2)
        head = (x1 + WIDTH / 2, y1 + HEIGHT + 0.06) if same_column else (x1 - 0.06, y1 + HEIGHT / 2)
        if past_a_box:
            head = (x1 + WIDTH / 2, y1 - 0.06)
        axis.add_patch(
            FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=11, color="#444444", lw=1)
        )
    axis.set_xlim(-0.2, corner(8, 0)[0] + WIDTH + 0.2)
    axis.set_ylim(-0.2, corner(0, 2)[1] + HEIGHT + 0.2)
    axis.set_aspect("equal")
    axis.axis("off")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(Path(__file__).with_name("way_of_the_data.png"))
