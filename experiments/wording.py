"""The words of a published table: an experiment file may change titles, notes and the paper's figures without a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.cells import Cell
from experiments.experiment import Experiment
from experiments.loading import load_experiment
from experiments.measuring import compared
from experiments.page import Page
from experiments.plan import ROOT


def experiment_of(page: Page) -> Experiment | None:
    """Load the experiment file that a page names, at the page's scale; None where the checkout has no such file.

    Raises:
        ValueError: the file is wrong, or no longer has the scale.
    """
    file = ROOT / page.file
    return load_experiment(file, page.scale) if file.is_file() else None


def reworded(page: Page, cells: Sequence[Cell], experiment: Experiment, folder: Path) -> tuple[Page, list[Cell]]:
    """Say page and cells in the words of an experiment; what was measured stays.

    Args:
        page: as published.
        cells: as published.
        experiment: of the words.
        folder: where the records of the cells lie, for distances and ratios that the experiment shows.

    Raises:
        ValueError: the experiment has other lines, or a picture of images that are not there, which only a run can
            fill; names what differs and the remedy.
    """
    rows = {row.name: row for row in experiment.rows}
    for name, published, now in (
        ("lines", sorted(page.rows), sorted(rows)),
        ("kind", page.kind, experiment.kind),
        ("radii", page.radii, experiment.radii),
    ):
        if published != now:
            raise ValueError(
                f"{page.file} has the {name} {now}, but published were {published}: "
                f"python reproduce.py {page.file} --scale {page.scale}"
            )
    new = replace(
        page,
        title=experiment.title,
        paper=experiment.paper,
        text=experiment.text,
        rows=[row.name for row in experiment.rows],
        pictures=experiment.pictures,
        columns=experiment.columns,
    )
    measured = {cell.name: cell for cell in cells}
    said = [
        replace(
            measured[row.name],
            dataset=experiment.dataset[page.scale],
            method=row.method,
            reported=row.reported,
            source=row.source,
            note=row.note,
        )
        for row in experiment.rows
    ]
    return new, compared(said, experiment, folder)
