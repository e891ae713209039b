"""The table of a published folder in Markdown, ours beside the paper's, made from its cells alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.cells import Cell, CellKind
from zeroth.records import certificate_frame, markdown_table
from zeroth.records.tables import NO_VALUE, mean_text, number_text, rate_text

WON = "won / attacked"
SUCCESS, FIRST, SPENT = "success % [95 % CI]", "queries to success [95 % CI]", "queries spent [95 % CI]"
NORMS = {"l0": "l_0", "l1": "l_1", "l2": "l_2", "linf": "l_inf"}


def table_markdown(kind: CellKind, paper: str, cells: Sequence[Cell]) -> str:
    """Lay out the cells as a Markdown table with a caption that says of what, how many and how sure.

    Args:
        kind: what the table is of; a study has the caption alone.
        paper: authors, venue, year.
        cells: its lines, in order.
    """
    if kind == "study":
        bootstrap = "95 % intervals: bootstrap over the images"
        frame, caption = None, [_images(cells), _victims(cells), bootstrap]
    elif kind == "attack":
        frame, caption = attack_table(cells), _attack_caption(cells)
    else:
        frame, caption = certificate_table(cells), _certificate_caption(cells)
    if any(cell.reported for cell in cells):
        caption.append(f"The paper's figures are those of {paper}, on its own victim and images")
    commits = [_short(commit) for cell in cells for commit in (cell.commit, *(s["commit"] for s in cell.later_starts))]
    caption.append(f"Commit {', '.join(dict.fromkeys(commits))}")
    table = "" if frame is None else f"{markdown_table(frame)}\n"
    return f"{table}{'. '.join(caption)}.\n"


def attack_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Success and queries as text, one line a cell; columns of the paper where it reports any."""
    rows = []
    for cell in cells:
        told, paper = cell.measured, cell.reported
        rows.append(
            {
                "method": cell.method,
                WON: f"{told['n_success']:,} / {told['n_attacked']:,}",
                SUCCESS: rate_text(told["success_rate"]),
                FIRST: mean_text(told["queries_to_success"]),
                SPENT: mean_text(told["queries"]),
                "median spent": number_text(told["queries"]["median"], ",.0f"),
                "paper: success %": _percent(paper.get("success_rate")),
                "paper: queries": number_text(paper.get("queries_to_success"), ",.0f"),
                "paper: where": cell.source or NO_VALUE,
            }
        )
    return _without_empty(pd.DataFrame(rows, dtype=object))


def certificate_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Certified accuracy at the radii as text, one line a cell; columns of the paper where it reports any."""
    frame = certificate_frame({cell.method: cell.measured for cell in cells})
    radii = [name for name in frame.columns if name.startswith("CA(")]
    frame = frame[["run", "n", *radii, "ACR", "abstain %"]].rename(columns={"run": "method"})
    for radius in sorted({radius for cell in cells for radius in _reported_radii(cell)}, key=float):
        shown = [_percent(_reported_radii(cell).get(radius)) for cell in cells]
        frame[f"paper: CA({float(radius):g}) %"] = shown
    frame["paper: ACR"] = [number_text(cell.reported.get("acr"), ".3f") for cell in cells]
    frame["paper: where"] = [cell.source or NO_VALUE for cell in cells]
    return _without_empty(frame)


def tuning_text(cells: Sequence[Cell]) -> str:
    """Say in a sentence how tuned lines were tuned; empty where none was. Unequal trials are told as they are."""
    tuned = [cell for cell in cells if cell.tuning]
    if not tuned:
        return ""
    told = {
        f"{cell.tuning['trials']} trials on {cell.tuning['images']} images of the {cell.tuning['split']} split"
        f"{_of_which(cell.tuning)} (seed {cell.tuning['seed']})"
        for cell in tuned
        if cell.tuning
    }
    return f"Tuned lines had {' or '.join(sorted(told))} each"


def _of_which(tuning: Mapping[str, Any]) -> str:
    """Say how many of the tuning's images were attacked, where it tells and they are not all."""
    attacked = tuning.get("attacked", tuning["images"])
    return "" if attacked == tuning["images"] else f", of which {attacked} attacked"


def _attack_caption(cells: Sequence[Cell]) -> list[str]:
    wrong = any(cell.measured["n_attacked"] < cell.measured["n"] for cell in cells)
    norms = _distinct(cells, lambda cell: NORMS[cell.norm] if cell.norm else "")
    budget = f"{_numbers(cell.setting('budget') for cell in cells)} queries an image"
    balls = _numbers(cell.config["settings"].get("attack.init_args.epsilon") for cell in cells)
    sentences = [
        f"{_images(cells)}{', attacked where the victim gets them right' if wrong else ''}",
        _victims(cells),
        f"Epsilon {balls} in {norms}, budget {budget}" if balls else f"Budget {budget}",
        "Queries to success are means over the images won, queries spent over all attacked",
        "95 % intervals: Wilson's of rates, Student's t of means",
    ]
    return [*sentences, tuned] if (tuned := tuning_text(cells)) else sentences


def _certificate_caption(cells: Sequence[Cell]) -> list[str]:
    def numbers(key: str) -> str:
        return _numbers(cell.setting(f"certify.{key}") for cell in cells)

    return [
        _images(cells),
        _victims(cells),
        f"Noise sigma {numbers('sigma')}, n0 = {numbers('n0')}, n = {numbers('n')} samples, alpha = {numbers('alpha')}"
        "; CA(r): right and certified at the l_2 radius r, [0, 1] pixels; ACR: average certified radius",
        "95 % intervals: Clopper-Pearson's, over the choice of images",
    ]


def _images(cells: Sequence[Cell]) -> str:
    def images(cell: Cell) -> str:
        told = cell.images
        every = f", one in {told['stride']}" if told["stride"] > 1 else ""
        start = f", from place {told['start']} on" if told["start"] else ""
        return f"{told['count']:,} images of {cell.dataset} ({told['split']} split{every}{start})"

    return _distinct(cells, images)


def _victims(cells: Sequence[Cell]) -> str:
    def victim(cell: Cell) -> str:
        accuracy = cell.subject["accuracy"]
        return cell.subject["name"] + ("" if accuracy is None else f" ({100 * accuracy:.2f} % of the test split right)")

    named = _distinct(cells, victim)
    return f"Victim{'s' if len({cell.subject['name'] for cell in cells}) > 1 else ''}: {named}"


def _distinct(cells: Sequence[Cell], text: Callable[[Cell], str]) -> str:
    """Each different text of the cells once, in their order."""
    return ", ".join(dict.fromkeys(map(text, cells)))


def _numbers(values: Any) -> str:
    """Each different number once, ascending, with thousands separators."""
    return ", ".join(f"{value:,}" for value in sorted({value for value in values if value is not None}))


def _short(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    number, changes, _ = commit.partition("+")
    return number[:10] + (" with changes" if changes else "")


def _percent(share: float | None) -> str:
    return NO_VALUE if share is None else f"{100 * share:.1f}"


def _reported_radii(cell: Cell) -> dict[str, float]:
    return cell.reported.get("certified_accuracy", {})


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the paper's columns without any figure."""
    return frame[[name for name in frame if not (name.startswith("paper") and (frame[name] == NO_VALUE).all())]]
