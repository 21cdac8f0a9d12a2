"""Draws the primer's picture out of a folder of results:

    kdbench run quick --methods ce --seeds 1 --out runs/picture
    python docs/picture.py runs/picture docs/pages/images/soft-targets.svg

Above, who learns from whom; below, what a trained teacher says of one test image at three temperatures.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from scipy.special import softmax

from kdbench.finished.reload import dataset_of
from kdbench.folders import CacheFolder
from kdbench.report.drawing import COLOURS, GREY, STYLE
from kdbench.results.store import Store
from kdbench.spec import teacher_id

TEMPERATURES = (1, 4, 8)
SURE = .9  # the probability of its class that the teacher gives the image that is shown, or nearly
BLUE, ORANGE = COLOURS[1], COLOURS[2]


def draw(results: Path, picture: Path) -> None:
    """Draw the picture of a folder's first student and its teacher."""
    cache = CacheFolder.of_user()
    record = next(record for record in Store(results).read()[0] if record.role == "student")
    predictions = Store(cache.teachers).read_predictions(str(teacher_id(record.spec)))
    logits, labels = predictions["test_logits"], predictions["test_labels"]
    right = logits.argmax(axis=1) == labels
    chosen = int(np.argmin(np.abs(softmax(logits, axis=1).max(axis=1) - SURE) + ~right))
    dataset = dataset_of(record, cache, "cpu")
    image = dataset.test.images.take(torch.tensor([chosen]))[0].numpy()
    with rc_context(STYLE | {"axes.grid": False, "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
        diagram(above.add_subplot())
        answers(below, image, logits[chosen], dataset.classes, int(labels[chosen]))
        figure.savefig(picture, metadata={"Date": None})


def diagram(axes: Axes) -> None:
    """Teacher, student and the two losses, with arrows."""
    axes.set(xlim=(0, 100), ylim=(0, 40))
    axes.axis("off")
    boxes = {
        "image": (1, 14, 11, 12, "image", "#ffffff"),
        "teacher": (21, 25, 20, 12, "teacher\n(large, frozen)", "#dbe9f4"),
        "student": (21, 3, 20, 12, "student\n(small, in training)", "#fdf0d5"),
        "soft": (52, 25, 20, 12, "soft targets\nsoftmax(z / T)", "#dbe9f4"),
        "answer": (52, 3, 20, 12, "its answer\nat T and at 1", "#fdf0d5"),
        "kd": (82, 20, 17, 10, "distillation loss\nT² KL", "#ffffff"),
        "ce": (82, 3, 17, 10, "cross-entropy\nwith the label", "#ffffff"),
    }
    for x, y, width, height, text, colour in boxes.values():
        axes.add_patch(FancyBboxPatch((x + 1, y + 1), width - 2, height - 2, boxstyle="round,pad=1", facecolor=colour,
                                      edgecolor=GREY, linewidth=1))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)
    for start, end in (((12, 22), (21, 31)), ((12, 18), (21, 9)), ((41, 31), (52, 31)), ((41, 9), (52, 9)),
                       ((72, 31), (82, 26)), ((72, 11), (82, 23)), ((72, 8), (82, 8))):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.2})


def answers(figure: Any, image: np.ndarray, logits: np.ndarray, names: tuple[str, ...], label: int) -> None:
    """The image, and the class probabilities at each temperature."""
    axes = figure.subplots(1, 1 + len(TEMPERATURES), width_ratios=(.8, 1, 1, 1))
    axes[0].imshow(image[0], cmap="gray_r", interpolation="nearest")
    axes[0].set_title(f"a test image, label {names[label]}", fontsize=9)
    axes[0].axis("off")
    for one, temperature in zip(axes[1:], TEMPERATURES, strict=True):
        shares = softmax(logits / temperature)
        one.bar(range(len(names)), shares, color=[ORANGE if place == label else BLUE for place in range(len(names))])
        one.set(title=f"teacher at T = {temperature}", ylim=(0, 1), xticks=range(len(names)), xticklabels=names)
        one.set_yticks((0, .5, 1), ("0", "0.5", "1") if one is axes[1] else ("",) * 3)
        one.title.set_fontsize(9)
        one.tick_params(labelsize=8, length=2)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
