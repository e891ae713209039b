"""Whether the lines, columns and pictures that an experiment file asks for fit what it runs; before anything runs."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from experiments.experiment import COLUMNS, Experiment, Figure, Job, LossAxis, Scale

# What a row of each kind of table may report.
REPORTING: dict[str, Job] = {"attack": "attack", "certificate": "certify", "study": "study"}
# Pictures that each kind of table can have.
PICTURES = {
    "attack": ("success", "success_vs", "queries_vs", "lines", "transfer", "strip", "distortion", "within"),
    "certificate": ("certified",),
    "study": ("study", "reconstructions", "losses", "figures", "maps", "iterates"),
}
# Studies of optimizers.
OPTIMIZERS = ("optimization", "similarity", "synthetic")
# Pictures of the rows of some studies, and those studies.
STUDIES = {
    "reconstructions": ("reconstruction",),
    "losses": OPTIMIZERS,
    "figures": OPTIMIZERS,
    "maps": ("trace",),
    "iterates": ("trace",),
}
# What a ratio to another row can be of.
RATIOS = {"attack": ("l1", "l2", "linf", "median_at"), "certificate": (), "study": get_args(Figure)}
# Those that are drawn over a setting.
OVER = ("success_vs", "queries_vs", "lines", "figures")
# Those that show single images: losses may.
PICTURED = ("strip", "losses")
# Columns of distances at numbers of queries.
AT_MARKS = ("median_at", "mean_at", "success_at")
# Figures of the paper that a row may report; those of a study are its own.
FIGURES = {
    "attack": ("success_rate", "queries_to_success", "l1", "l2", "linf", *AT_MARKS),
    "certificate": ("certified_accuracy", "acr"),
}
# Keys of figures that are told at a radius, or at a number of queries.
_KEYS = {
    "certified_accuracy": ("radii", "a radius is a number in quotes, e.g. '0.25'", re.compile(r"\d+(\.\d+)?")),
    **dict.fromkeys(
        AT_MARKS, ("numbers of queries", "a number of queries is in quotes, e.g. '4000'", re.compile(r"[1-9]\d*"))
    ),
}
# Those of all figures of a study, whose names are those of its lines.
_MARKS = (
    "marks",
    "a mark is a number in quotes, as on its axis, e.g. '0.5'",
    re.compile(r"\d+(\.\d+)?(e[+-]\d+)?"),
)
# Figures that are fractions.
_SHARES = ("success_rate", "certified_accuracy", "success_at")


def check_table(experiment: Experiment, scale: Scale) -> None:
    """Check that rows, columns and pictures show what is there.

    Raises:
        ValueError: they do not; names the field, the value and the remedy.
    """
    if scale not in experiment.dataset:
        raise ValueError(f"dataset does not say which dataset scale {scale} is on")
    if unknown := sorted(set(experiment.defaults) - set(get_args(Job))):
        raise ValueError(f"defaults: {unknown[0]!r} is no job: it must be one of {', '.join(get_args(Job))}")
    seen: dict[str, set[str]] = {"method": set(), "stage": set()}
    for place, row in enumerate(experiment.rows):
        for name, value in (("method", row.method), ("stage", row.name)):
            if value in seen[name]:
                raise ValueError(f"rows[{place}].{name}: {value!r} has a row already")
            seen[name].add(value)
        job, fitting = REPORTING[experiment.kind], experiment.stages.get(row.stage)
        if fitting is None or fitting.job != job:
            names = ", ".join(name for name, stage in experiment.stages.items() if stage.job == job)
            raise ValueError(f"rows[{place}].stage: {row.stage!r} is no {job} stage; those are: {names or 'none'}")
        _check_reported(f"rows[{place}].reported", row.reported, experiment.kind)
    _check_comparisons(experiment)
    _check_marks(experiment)
    _check_pictures(experiment, seen["method"])


def _check_pictures(experiment: Experiment, methods: set[str]) -> None:
    """Check that pictures draw lines that are there, and have what their kind needs."""
    for name, picture in experiment.pictures.items():
        if missing := [method for method in picture.rows if method not in methods]:
            raise ValueError(f"pictures.{name}.rows: no row has the method {missing[0]!r}")
        if picture.kind not in (fit := PICTURES[experiment.kind]):
            raise ValueError(
                f"pictures.{name}.kind: {picture.kind!r} does not fit a table of kind {experiment.kind}, which has "
                f"{', '.join(fit)}"
            )
        if (picture.kind in (*OVER, "losses")) != (picture.over is not None):
            raise ValueError(f"pictures.{name}.over: kinds {', '.join((*OVER, 'losses'))}, and no other, need it")
        if picture.kind == "losses" and picture.over not in get_args(LossAxis):
            raise ValueError(
                f"pictures.{name}.over: losses are over {' or '.join(get_args(LossAxis))}, got {picture.over!r}"
            )
        drawn = [row for row in experiment.rows if not picture.rows or row.method in picture.rows]
        studies = STUDIES.get(picture.kind)
        others = [row.method for row in drawn if studies and experiment.stages[row.stage].study not in studies]
        if studies and others:
            raise ValueError(
                f"pictures.{name}.rows: kind {picture.kind} draws rows whose stages have study: "
                f"{' or '.join(studies)}, which {others[0]!r} is none of: name those alone"
            )
        if picture.images is None and picture.kind == "strip":
            raise ValueError(f"pictures.{name}.images: kind strip must say how many images it shows")
        if picture.images is not None and (picture.kind not in PICTURED or picture.images < 1):
            raise ValueError(
                f"pictures.{name}.images: kinds {' and '.join(PICTURED)}, and no other, say how many images they show, "
                f"at least 1; got {picture.images}"
            )
        size = picture.threshold
        if (picture.kind == "within") != (size is not None) or (size is not None and size <= 0):
            raise ValueError(
                f"pictures.{name}.threshold: kind within, and no other, has the distance that counts, above 0; "
                f"got {size}"
            )


def _check_comparisons(experiment: Experiment) -> None:
    """Check that cases and baselines of rows are there, and the columns of the table."""
    rows = {row.method: row for row in experiment.rows}
    for place, row in enumerate(experiment.rows):
        where, stage = f"rows[{place}]", experiment.stages[row.stage]
        targeted = {**experiment.defaults.get(stage.job, {}), **stage.options}.get("targeted")
        if row.case is not None and targeted != "all":
            raise ValueError(
                f"{where}.case: {row.case!r} chooses among the targets of an image, but stage {row.stage} has "
                f"targeted {targeted!r}: give it targeted: all"
            )
        if (ratio := row.ratio_to) is None:
            continue
        if ratio.of not in (fit := RATIOS[experiment.kind]):
            raise ValueError(
                f"{where}.ratio_to.of: {ratio.of!r} does not fit a table of kind {experiment.kind}, which has "
                f"{', '.join(fit) or 'none'}"
            )
        if ratio.row not in rows or rows[ratio.row] is row:
            raise ValueError(f"{where}.ratio_to.row: {ratio.row!r} is no other row's method")
        for method in (row.method, ratio.row) if experiment.kind == "study" else ():
            if experiment.stages[rows[method].stage].study not in OPTIMIZERS:
                raise ValueError(
                    f"{where}.ratio_to: it is of rows whose stages have study: {' or '.join(OPTIMIZERS)}, which "
                    f"{method!r} is none of"
                )
        if rows[ratio.row].case != row.case:
            raise ValueError(f"{where}.ratio_to.row: {ratio.row!r} is of another case: give both rows the same")
    if experiment.kind != "attack" and experiment.columns != list(COLUMNS):
        raise ValueError(f"columns: only a table of kind attack chooses, this is of kind {experiment.kind}")
    if repeated := {column for column in experiment.columns if experiment.columns.count(column) > 1}:
        raise ValueError(f"columns: {sorted(repeated)[0]!r} is named twice")


def _check_marks(experiment: Experiment) -> None:
    """Check that columns at numbers of queries have the numbers, and the threshold, that they show."""
    marks, threshold = experiment.marks, experiment.threshold
    shown = [column for column in experiment.columns if column in AT_MARKS]
    if marks and experiment.kind != "attack":
        raise ValueError(f"marks: only attacks have distances at numbers of queries, this is of kind {experiment.kind}")
    if marks != sorted(set(marks)) or any(mark < 1 for mark in marks):
        raise ValueError(f"marks must be numbers of queries from 1, ascending, each once, got {marks}")
    if shown and not marks:
        raise ValueError(f"marks: column {shown[0]} needs the numbers of queries that it shows, e.g. [4000, 8000]")
    ratios = [row.method for row in experiment.rows if row.ratio_to and row.ratio_to.of == "median_at"]
    if ratios and not marks:
        raise ValueError(f"marks: the ratio of medians of {ratios[0]} is at the last mark: give at least one")
    if marks and not shown and not ratios:
        raise ValueError(f"marks: no column shows {marks}: add {', '.join(AT_MARKS)} to columns, or leave marks out")
    if ("success_at" in shown) != (threshold is not None) or (threshold is not None and threshold <= 0):
        raise ValueError(
            f"threshold: column success_at, and nothing else, has the distance that counts, above 0; got {threshold}"
        )


def _check_reported(where: str, reported: Mapping[str, Any], kind: str) -> None:
    """Check the names and the range of a paper's figures; None stands for one that it does not have."""
    for name, value in reported.items():
        if kind in FIGURES and name not in FIGURES[kind]:
            raise ValueError(unknown_key(f"{where}.{name}", str(name), FIGURES[kind], f"a row of kind {kind}"))
        most = 1 if name in _SHARES else math.inf
        if kind != "study" and (name not in _KEYS or value is None):
            _check_figure(f"{where}.{name}", value, most=most)
            continue
        keys, remedy, pattern = _MARKS if kind == "study" else _KEYS[name]
        if not isinstance(value, dict):
            raise ValueError(
                f"{where}.{name} must map {keys} to {'fractions' if most == 1 else 'numbers'}, got {value!r}"
            )
        for key, figure in value.items():
            if not isinstance(key, str) or not pattern.fullmatch(key):
                raise ValueError(f"{where}.{name}: {remedy}, got {key!r}")
            _check_figure(f"{where}.{name}.{key}", figure, most=most)


def _check_figure(where: str, value: Any, *, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value <= most):
        raise ValueError(f"{where} must be {'a fraction from 0 to 1' if most == 1 else 'a number >= 0'}, got {value!r}")


def unknown_key(field: str, key: str, known: Sequence[str], whose: str) -> str:
    """Say that a key is unknown, what it may have meant, and what there is."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {field}{f', did you mean {near[0]}?' if near else ''} ({whose} takes {', '.join(known)})"
