"""The lines that an experiment has at one scale: a small machine may leave out what a large one shows."""

from collections.abc import Iterable
from dataclasses import replace

from experiments.experiment import Experiment, Row, Scale


def at_scale(experiment: Experiment, scale: Scale) -> Experiment:
    """Leave out the rows of other scales, the stages that they alone need, and their part of the pictures.

    The text of the page then names what is left out.

    Raises:
        ValueError: a row is of a scale that the experiment does not have, or none is left; names the remedy.
    """
    for place, row in enumerate(experiment.rows):
        if unknown := [name for name in row.scales if name not in experiment.scales]:
            raise ValueError(
                f"rows[{place}].scales: {unknown[0]!r} is no scale of this file, which has "
                f"{', '.join(experiment.scales)}"
            )
    rows = [row for row in experiment.rows if not row.scales or scale in row.scales]
    if len(rows) == len(experiment.rows):
        return experiment
    if not rows:
        raise ValueError(f"rows: none is left at scale {scale}: name it in the scales of one, or leave out scales")
    gone = [row for row in experiment.rows if row not in rows]
    spare = _needed(experiment, gone) - _needed(experiment, rows)
    methods = {row.method for row in rows}
    pictures = {
        name: replace(picture, rows=[method for method in picture.rows if method in methods])
        for name, picture in experiment.pictures.items()
        if not picture.rows or methods.intersection(picture.rows)
    }
    told = f"At this scale without {'; '.join(row.method for row in gone)}."
    return replace(
        experiment,
        rows=rows,
        stages={name: stage for name, stage in experiment.stages.items() if name not in spare},
        pictures=pictures,
        text=f"{experiment.text.strip()} {told}".strip(),
    )


def _needed(experiment: Experiment, rows: Iterable[Row]) -> set[str]:
    """Stages of rows, and all that those follow."""
    found: set[str] = set()
    left = [row.stage for row in rows]
    while left:
        name = left.pop()
        # A stage that is not there is named by the check of the table.
        if name in found or (stage := experiment.stages.get(name)) is None:
            continue
        found.add(name)
        left += [one for one in (stage.victim, stage.tuned, *stage.built_on) if one is not None]
    return found
