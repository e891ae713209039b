"""Numbers of queries at which a table or a picture compares distances: whether the stages have curves there."""

from collections.abc import Mapping
from pydoc import locate
from typing import Any

from callbacks.pieces import query_marks
from experiments.experiment import Experiment, PictureKind
from zeroth.records import flatten

# Pictures that are drawn from curves of distances.
CURVE_PICTURES: tuple[PictureKind, ...] = ("distortion", "within")


def needs_curves(experiment: Experiment) -> bool:
    """Whether a table, or a picture of it, shows distances at numbers of queries."""
    return bool(experiment.marks) or any(picture.kind in CURVE_PICTURES for picture in experiment.pictures.values())


def attack_norm(settings: Mapping[str, Any]) -> str | None:
    """The norm by the class of the attack, or of the one within it; None where the class is not to be found here.

    Args:
        settings: all that decide the rows, by dotted key.
    """
    start = "attack."
    while f"{start}init_args.attack.class_path" in settings:
        start += "init_args.attack."
    attack = locate(settings[f"{start}class_path"])
    return settings.get(f"{start}init_args.norm") or getattr(attack, "norm", None)


def check_marks(experiment: Experiment, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that each stage of the table has a distance at each mark, and that only distances in one norm are compared.

    Args:
        experiment: the table.
        configs: stage -> its whole configuration.

    Raises:
        ValueError: it has not; names the field, the stage and the remedy.
    """
    for row in experiment.rows:
        budget: int = configs[row.stage].get("budget", 0)  # only attacks have marks
        for mark in experiment.marks:
            if mark > budget:
                raise ValueError(
                    f"marks: {mark} is above the budget of stage {row.stage}, {budget}: raise that budget, or leave "
                    "the mark out"
                )
            if mark not in query_marks(budget):
                raise ValueError(
                    f"marks: {mark} is no point of the curve of stage {row.stage}: give a number of one significant "
                    f"digit, e.g. {_round(mark)}, or the stage's budget, {budget}"
                )
    shown = {"marks": [row.method for row in experiment.rows]} if experiment.marks else {}
    for name, picture in experiment.pictures.items():
        if picture.kind in CURVE_PICTURES:
            shown[f"pictures.{name}"] = picture.rows or [row.method for row in experiment.rows]
    stages = {row.method: row.stage for row in experiment.rows}
    for field, methods in shown.items():
        norms = {method: attack_norm(flatten({"attack": configs[stages[method]]["attack"]})) for method in methods}
        if len(set(norms.values())) > 1:
            told = ", ".join(f"{method} in {norm}" for method, norm in norms.items())
            raise ValueError(f"{field}: distances in one norm can be compared, these are of several ({told})")


def _round(mark: int) -> int:
    """The nearest number of one significant digit."""
    return int(float(f"{mark:.0e}"))
