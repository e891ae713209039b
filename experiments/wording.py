"""The words of a published table: an experiment file may change titles, notes and the paper's figures without a run."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.cells import Cell
from experiments.experiment import Experiment
from experiments.loading import load_experiment
from experiments.page import Page
from experiments.plan import ROOT


def experiment_of(page: Page) -> Experiment | None:
    """Load the experiment file that a page names, at the page's scale; None where the checkout has no such file.

    Raises:
        ValueError: the file is wrong, or no longer has the scale.
    """
    file = ROOT / page.file
    return load_experiment(file, page.scale) if file.is_file() else None


def reworded(page: Page, cells: Sequence[Cell], experiment: Experiment) -> tuple[Page, list[Cell]]:
    """Say page and cells in the words of an experiment; what was measured stays.

    Raises:
        ValueError: the experiment has other lines, which only a run can fill; names what differs and the remedy.
    """
    rows = {row.stage: row for row in experiment.rows}
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
        rows=[row.stage for row in experiment.rows],
        pictures=experiment.pictures,
    )
    measured = {cell.stage: cell for cell in cells}
    return new, [
        replace(
            measured[row.stage],
            dataset=experiment.dataset[page.scale],
            method=row.method,
            reported=row.reported,
            source=row.source,
            note=row.note,
        )
        for row in experiment.rows
    ]
