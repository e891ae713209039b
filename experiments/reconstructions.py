"""What studies measured beside what the paper reports, as a table; and reconstructed images side by side (Fig. 5).

Shapes: n images of C x H x W pixels.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from experiments.cells import Cell
from zeroth.records.pictures import show
from zeroth.records.strips import INCHES, NAME_INCHES
from zeroth.records.tables import NO_VALUE

LEVELS = 255  # of a pixel in a picture


def study_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Lay out the lines of studies as text, a column a mark; the paper's figures before the lines that they belong to.

    Args:
        cells: studies with the same marks on their x axis. ``reported`` maps the beginning of a line's name, such as
            "RMSE" of "RMSE, adaptive", to the paper's figures: mark as text -> number.

    Raises:
        ValueError: the studies have different marks, or the paper reports what was not measured.
    """
    axis: Mapping[str, Any] = cells[0].measured["x"]
    marks = [f"{mark:g}" for mark in axis["values"]]
    rows: list[dict[str, str]] = []
    for cell in cells:
        if cell.measured["x"]["values"] != axis["values"]:
            raise ValueError(
                f"{cell.method} was measured at {cell.measured['x']['values']}, {cells[0].method} at {axis['values']}: "
                "a table has the same marks in all its lines"
            )
        missing = {name: dict(figures) for name, figures in cell.reported.items()}
        for line in cell.measured["lines"]:
            name = str(line["name"]).partition(",")[0]
            if (figures := missing.pop(name, None)) is not None:
                if unknown := sorted(set(figures) - set(marks)):
                    raise ValueError(
                        f"{cell.method}: the paper's {name} is told at {unknown[0]!r}, which has no column"
                    )
                paper = [NO_VALUE if figures.get(mark) is None else f"{figures[mark]:.3f}" for mark in marks]
                rows.append(_line(cell.method, f"{name}, the paper's", marks, paper))
            ours = zip(line["values"], line["low"], line["high"], strict=True)
            rows.append(
                _line(cell.method, line["name"], marks, [f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in ours])
            )
        if missing:
            raise ValueError(f"{cell.method}: the paper reports {', '.join(missing)}, of which no line was measured")
    return pd.DataFrame(rows).rename(columns={mark: f"{axis['name']} = {mark}" for mark in marks})


def _line(method: str, what: str, marks: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    return {"method": method, "what": what, **dict(zip(marks, texts, strict=True))}


def image_text(image: ArrayLike) -> str:
    """An image in [0, 1] as text: a byte a pixel, in the letters that JSON and URLs take as they are."""
    levels = np.rint(np.clip(np.asarray(image, float), 0, 1) * LEVELS).astype(np.uint8)
    return urlsafe_b64encode(levels.tobytes()).decode("ascii")


def image_of(text: str, shape: Sequence[int]) -> NDArray[np.float64]:
    """The image (C, H, W) in [0, 1] of :func:`image_text`."""
    return np.frombuffer(urlsafe_b64decode(text), np.uint8).reshape(shape) / LEVELS


def reconstructions_figure(lines: Mapping[str, Sequence[NDArray[np.float64]]]) -> Figure:
    """Draw images in a grid: a line a name, a column an image.

    Args:
        lines: what a line shows -> its n images (C, H, W) in [0, 1], as many in each.

    Raises:
        ValueError: there is nothing to show.
    """
    across = len(next(iter(lines.values()), ()))
    if across == 0:
        raise ValueError("there is no image to show: raise pictures")
    figure = Figure(figsize=(NAME_INCHES + INCHES * across, INCHES * len(lines)), layout="constrained")
    grid: NDArray[Any] = figure.subplots(len(lines), across, squeeze=False)
    for axes, (name, images) in zip(grid, lines.items(), strict=True):
        for place, image in zip(axes, images, strict=True):
            show(place, image)
        axes[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    return figure


def methods_figure(cells: Sequence[Cell]) -> Figure:
    """Draw the paper's Fig. 5: the true images, then what each method makes of the attacked ones, adaptive or not.

    Args:
        cells: studies of reconstructors, of the same images; each tells its examples.

    Raises:
        ValueError: a study without examples, or of other images.
    """
    lines: dict[str, Sequence[NDArray[np.float64]]] = {}
    first: Mapping[str, Any] = cells[0].measured.get("examples") or {}
    for cell in cells:
        told: Mapping[str, Any] = cell.measured.get("examples") or {}
        if not told or told["index"] != first["index"]:
            raise ValueError(f"{cell.method} has no examples of the images that {cells[0].method} has: measure it anew")

        def images(name: str, told: Mapping[str, Any] = told) -> list[NDArray[np.float64]]:
            return [image_of(text, told["shape"]) for text in told[name]]

        lines = lines or {"true image": images("original")}
        same = told["adaptive"] == told["non-adaptive"]
        for way in ("non-adaptive",) if same else ("non-adaptive", "adaptive"):
            lines[cell.method if same else f"{cell.method},\n{way}"] = images(way)
    return reconstructions_figure(lines)
