"""A comparison of two runs as text: its table, McNemar's table, and what a reader must be warned of."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from zeroth.records.schema import RecordHeader
from zeroth.records.tables import NO_VALUE

# Hyperparameters of an attack that say what counts as a win; the others are what a comparison of methods is about.
TASK_ARGUMENTS = ("epsilon", "accept", "kappa")
# Which images were selected: unlike images are refused, and like ones may be selected in several ways.
SELECTION = ("config.images.count", "config.images.start", "config.images.stride")
# What the header tells in fields of its own.
TWICE_TOLD = ("config.seed", "config.victim.checkpoint_sha256")


def cautions(a: RecordHeader, b: RecordHeader) -> list[str]:
    """Name the settings, one a line, in which two runs differ beside the hyperparameters of their attacks."""
    return [
        f"{name.removeprefix('config.')} is {_short(one)} in A and {_short(two)} in B"
        for name, (one, two) in a.differences(b).items()
        if not _is_method(name)
    ]


def same_run(a: RecordHeader, b: RecordHeader) -> str | None:
    """Say that two runs are one and the same by their settings, attack or certification included; None where not."""
    return None if a.differences(b) else "A and B have the same settings: they are one run, or the repetition of one"


def left_out_line(told: Mapping[str, Any]) -> str | None:
    """Say how many images a comparison of attacks left out; None where it took all."""
    left = told.get("left_out", {})
    if not any(left.values()):
        return None
    return (
        f"{told['n_attacked']} of {told['n']} images compared; left out: {left['a']} attacked in A only, "
        f"{left['b']} in B only, {left['neither']} in neither (wrong from the start, or never asked)"
    )


def comparison_frame(told: Mapping[str, Any], names: tuple[str, str]) -> pd.DataFrame:
    """Lay out a comparison as text, one line a figure: A, B, their difference with its interval, images, p-value.

    Args:
        told: what :func:`~zeroth.records.compare_attacks` or :func:`~zeroth.records.compare_certificates` returns.
        names: what A and B are called.
    """
    if "success" in told:
        lines = [
            _rate_line("success %", told["success"]),
            _number_line("queries", told["queries"], ",.1f"),
            _number_line("to success", told["queries_to_success"], ",.1f"),
            *(_number_line(norm, numbers, ".4g") for norm, numbers in told["distance"].items()),
        ]
    else:
        lines = [
            *(_rate_line(f"CA({rate['radius']:g}) %", rate) for rate in told["certified_accuracy"]),
            _number_line("certified radius", told["certified_radius"], ".4g"),
        ]
    columns = ["", f"A: {names[0]}", f"B: {names[1]}", "B - A", "images", "McNemar p"]
    return pd.DataFrame(lines, columns=columns, dtype=object)


def contingency_frame(title: str, rate: Mapping[str, Any]) -> pd.DataFrame:
    """Lay out McNemar's 2 x 2 table of a paired rate, numbers of images.

    Args:
        title: what is counted, e.g. success.
        rate: ``told["success"]`` of :func:`~zeroth.records.compare_attacks`, or a certified accuracy.
    """
    lines = [["A yes", rate["both"], rate["only_a"]], ["A no", rate["only_b"], rate["neither"]]]
    return pd.DataFrame(lines, columns=[title, "B yes", "B no"], dtype=object)


def _is_method(name: str) -> bool:
    """Whether a field of the headers may differ where only methods are compared, or is told by another field."""
    if name.startswith("config.attack."):
        key = name.removeprefix("config.attack.").removeprefix("init_args.")
        return key not in ("class_path", *TASK_ARGUMENTS)
    return name in (*SELECTION, *TWICE_TOLD, "config_hash")


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:13]}...'"  # enough of a SHA-256 to know it by


def _rate_line(name: str, rate: Mapping[str, Any]) -> list[str]:
    points = {key: None if rate[key] is None else 100 * rate[key] for key in ("a", "b", "difference", "low", "high")}
    p_value = NO_VALUE if rate["p_value"] is None else f"{rate['p_value']:.3g}"
    values = [NO_VALUE if points[key] is None else f"{points[key]:.1f}" for key in ("a", "b")]
    return [name, *values, _difference(points, ".1f"), f"{rate['n']:,}", p_value]


def _number_line(name: str, numbers: Mapping[str, Any], spec: str) -> list[str]:
    values = [
        NO_VALUE if side["mean"] is None else f"{side['mean']:{spec}} (median {side['median']:{spec}})"
        for side in (numbers["a"], numbers["b"])
    ]
    images = f"{numbers['n']:,} ({numbers['n_differ']:,} differ)" if numbers["n"] else "0"
    return [name, *values, _difference(numbers, spec), images, NO_VALUE]


def _difference(told: Mapping[str, Any], spec: str) -> str:
    if told["difference"] is None:
        return NO_VALUE
    signed = f"+z{spec}"  # z: a rounded zero has no minus
    interval = "" if told["low"] is None else f" [{told['low']:{signed}}, {told['high']:{signed}}]"
    return f"{told['difference']:{signed}}{interval}"
