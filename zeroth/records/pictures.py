"""Adversarial images beside the originals and what was changed.

Shapes: B images, C x H x W pixels, C 1 or 3.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from zeroth.records.plots import NORM_NAMES
from zeroth.records.summary import Norm

ROWS = ("original", "adversarial", "difference")
# Letters that fit above a picture.
NAME_LENGTH = 18


def adversarial_figure(
    images: ArrayLike,
    adversarial: ArrayLike,
    labels: Sequence[int],
    predicted: Sequence[int],
    queries: Sequence[int],
    distances: Sequence[float],
    *,
    norm: Norm = "l2",
    class_names: Sequence[str] | None = None,
    per_row: int = 8,
) -> Figure:
    """Show originals, adversarial images and their differences, a column an image, in bands of ``per_row`` images.

    A difference is scaled so that its largest change fills the range; the scale is told below it. Of a grey image it is
    red where light was added and blue where it was taken; of a colour image 0 is mid-grey in each channel.

    Args:
        images: (B, C, H, W) clean images in [0, 1].
        adversarial: (B, C, H, W).
        labels: (B,) true labels.
        predicted: (B,) the victim's classes for ``adversarial``.
        queries: (B,) queries told in the titles.
        distances: (B,) distances told in the titles.
        norm: their norm.
        class_names: names in place of numbers.
        per_row: images side by side.

    Raises:
        ValueError: no images, other than one or three channels, or lengths that differ.
    """
    clean, changed = np.asarray(images, float), np.asarray(adversarial, float)
    lengths = {len(clean), len(changed), len(labels), len(predicted), len(queries), len(distances)}
    if clean.ndim != 4 or clean.shape != changed.shape or clean.shape[1] not in (1, 3) or lengths != {len(clean)}:
        raise ValueError(
            f"images and adversarial must both be (B, 1 or 3, H, W) and the rest (B,), got {clean.shape}, "
            f"{changed.shape} and lengths {sorted(lengths)}"
        )
    if len(clean) == 0 or per_row < 1:
        raise ValueError(f"need at least one image and per_row >= 1, got {len(clean)} images and per_row {per_row}")
    across, bands = min(per_row, len(clean)), -(-len(clean) // per_row)
    # Narrow figures leave no room for the row names and titles beside one small image.
    figure = Figure(figsize=(0.5 + 1.35 * max(across, 2), (3 * 1.25 + 0.85) * bands), layout="constrained")
    classes = _class_lines(labels, predicted, class_names)
    subfigures = figure.subfigures(bands, 1, squeeze=False)[:, 0]
    for band, subfigure in enumerate(subfigures):
        grid: NDArray[Any] = subfigure.subplots(len(ROWS), across, squeeze=False)
        for column in range(across):
            index = band * per_row + column
            if index >= len(clean):  # the last band may be short; its columns keep their width
                for axes in grid[:, column]:
                    axes.set_axis_off()
                continue
            asked = int(queries[index])
            told = [classes[index], f"{asked:,} {'query' if asked == 1 else 'queries'}"]
            told.append(f"{NORM_NAMES[norm]} {float(distances[index]):.3g}")
            grid[0, column].set_title("\n".join(told), fontsize=8, linespacing=1.25)
            show(grid[0, column], clean[index])
            show(grid[1, column], changed[index])
            _show_difference(grid[2, column], changed[index] - clean[index])
        for axes, name in zip(grid[:, 0], ROWS, strict=True):
            axes.set_ylabel(name, fontsize=8)
    return figure


def _class_lines(labels: Sequence[int], predicted: Sequence[int], class_names: Sequence[str] | None) -> list[str]:
    """Write "label -> predicted" for each image, on two lines for all where one would run into its neighbour."""

    def name(number: int) -> str:
        text = str(number) if class_names is None or number < 0 else class_names[number]
        text = text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 3].rstrip() + "..."
        return text.replace("$", r"\$")  # what stands between two $ is read as a formula

    pairs = [(name(int(a)), name(int(b))) for a, b in zip(labels, predicted, strict=True)]
    broken = any(len(a) + len(b) > NAME_LENGTH - 3 for a, b in pairs)
    return [f"{a}\n$\\to$ {b}" if broken else f"{a} $\\to$ {b}" for a, b in pairs]


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="0.75", linewidth=0.5)


def show(axes: Axes, image: NDArray[np.float64]) -> None:
    """Show one image (C, H, W), pixels as they are: no smoothing, no stretching of contrast."""
    bare(axes)
    if image.shape[0] == 1:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(image.transpose(1, 2, 0).clip(0, 1), interpolation="nearest")


def _show_difference(axes: Axes, delta: NDArray[np.float64]) -> None:
    """Show a signed change (C, H, W), scaled to its largest entry."""
    bare(axes)
    largest = float(np.abs(delta).max())
    scaled = delta / largest if largest else delta
    if delta.shape[0] == 1:
        axes.imshow(scaled[0], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    else:
        axes.imshow((0.5 + scaled / 2).transpose(1, 2, 0), interpolation="nearest")
    axes.set_xlabel(f"scale \u00b1{largest:.3g}" if largest else "none", fontsize=8, labelpad=2)
