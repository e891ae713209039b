"""The table of a published folder in Markdown, ours beside the paper's, made from its cells alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.cells import Cell, CellKind
from experiments.experiment import COLUMNS, Column
from experiments.optimizations import figures_table
from experiments.ratios import NORMS, interval_text, ratio_column, ratio_name
from experiments.reconstructions import study_table
from zeroth.records import certificate_frame, markdown_table
from zeroth.records.tables import NO_VALUE, mean_text, number_text, rate_text

WON = "won / attacked"
SUCCESS, FIRST, SPENT = "success % [95 % CI]", "queries to success [95 % CI]", "queries spent [95 % CI]"
# With more victims than this a caption would name nothing else.
MANY_VICTIMS = 4
# What ratios are of, and whether that is medians.
RATIOS = {False: "the means over the n that both lines won", True: "the medians of the n that both attacked"}
# Over which images columns at numbers of queries are.
MARKED = {
    "median_at": "medians are of all attacked, those without one at infinity",
    "mean_at": "means are of those that have one, n where these are not all",
    "success_at": "success is of all attacked",
}
TARGETED = {
    "next": "the next",
    "random": "one drawn at random among the wrong ones",
    "least_likely": "the least likely",
    "all": "each wrong one, a pair of image and class at a time",
}


def table_markdown(kind: CellKind, paper: str, cells: Sequence[Cell], columns: Sequence[Column] = COLUMNS) -> str:
    """Lay out the cells as a Markdown table with a caption that says of what, how many and how sure.

    Args:
        kind: what the table is of; studies without figures, of which the paper reports nothing, have the caption alone.
        paper: authors, venue, year.
        cells: its lines, in order.
        columns: what a table of attacks shows.
    """
    if kind == "study":
        bootstrap = f"95 % intervals: bootstrap over the {_unit(cells[0])}"
        if any(cell.ratio for cell in cells):
            bootstrap += "; ratios are of the means over the n that both lines measured"
        if all("summary" in cell.measured for cell in cells):
            frame = figures_table(cells)
        else:
            frame = study_table(cells) if any(cell.reported for cell in cells) else None
        victims = [_victims(cells)] if any(cell.subject["name"] for cell in cells) else []
        intervals = any("low" in line for cell in cells for line in cell.measured["lines"])
        caption = [_images(cells), *victims, *([bootstrap] if intervals else [])]
    elif kind == "attack":
        frame, caption = attack_table(cells, columns), _attack_caption(cells, columns)
    else:
        frame, caption = certificate_table(cells), _certificate_caption(cells)
    if any(cell.reported for cell in cells):
        caption.append(f"The paper's figures are those of {paper}, on its own victim and images")
    commits = [_short(commit) for cell in cells for commit in (cell.commit, *(s["commit"] for s in cell.later_starts))]
    caption.append(f"Commit {', '.join(dict.fromkeys(commits))}")
    table = "" if frame is None else f"{markdown_table(frame)}\n"
    return f"{table}{'. '.join(caption)}.\n"


def attack_table(cells: Sequence[Cell], columns: Sequence[Column] = COLUMNS) -> pd.DataFrame:
    """What was measured as text, one line a cell; columns of the paper where it reports any.

    Args:
        cells: the lines.
        columns: what is shown, beside the images won; ratios to baselines follow wherever a cell has one.
    """
    ratios = list(dict.fromkeys(ratio_name(cell) for cell in cells if cell.ratio))
    rows = []
    for cell in cells:
        told, shown = cell.measured, [_column(cell, column) for column in columns]
        compared = [ratio_column(cell, name) for name in ratios]
        rows.append(
            {
                "method": cell.method,
                WON: f"{told['n_success']:,} / {told['n_attacked']:,}",
                **{name: text for ours, _ in (*shown, *compared) for name, text in ours.items()},
                **{f"paper: {name}": text for _, paper in (*shown, *compared) for name, text in paper.items()},
                "paper: where": cell.source or NO_VALUE,
            }
        )
    return _without_empty(pd.DataFrame(rows, dtype=object))


def _column(cell: Cell, column: Column) -> tuple[dict[str, str], dict[str, str]]:
    """Head -> text of one column: ours, and the paper's."""
    told, paper = cell.measured, cell.reported.get(column)
    if column == "median_at" or column == "mean_at" or column == "success_at":
        return _columns_at(cell, column, paper or {})
    if column == "success_rate":
        return {SUCCESS: rate_text(told["success_rate"])}, {"success %": _percent(paper)}
    if column == "queries_to_success":
        return {FIRST: mean_text(told[column])}, {
            "queries": number_text(paper, ",.0f" if (paper or 0) >= 100 else ".3g")
        }
    if column == "queries":
        return {SPENT: mean_text(told[column]), "median spent": number_text(told[column]["median"], ",.0f")}, {}
    text = interval_text((cell.distances or {}).get(column), "mean")
    return {f"{NORMS[column]} [95 % CI]": text}, {NORMS[column]: number_text(paper, ".4g")}


def _columns_at(cell: Cell, column: Column, paper: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """As :func:`_column`, of distances at the marks, a column each."""
    at, norm = cell.at or {"threshold": None, "marks": {}}, NORMS[cell.norm or "l2"]
    ours, theirs = {}, {}
    for mark, told in at["marks"].items():
        where, reported = f"at {int(mark):,}", paper.get(mark)
        if column == "success_at":
            name = f"success % {where}, {norm} <= {at['threshold']:g}"
            ours[f"{name} [95 % CI]"] = rate_text(told["success"])
            theirs[name] = _percent(reported)
        elif column == "mean_at":
            some = f", n {told['n_found']:,}" if 0 < told["n_found"] < told["n"] else ""
            ours[f"mean {norm} {where} [95 % CI]"] = interval_text(told, "mean") + some
            theirs[f"mean {norm} {where}"] = number_text(reported, ".4g")
        else:
            infinite = told["n"] and told["median"] is None
            ours[f"median {norm} {where}"] = "inf" if infinite else number_text(told["median"], ".4g")
            theirs[f"median {norm} {where}"] = number_text(reported, ".4g")
    return ours, theirs


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


def _attack_caption(cells: Sequence[Cell], columns: Sequence[Column]) -> list[str]:
    aims = _distinct(cells, lambda cell: TARGETED.get(cell.config["settings"].get("targeted", "none"), "any wrong one"))
    wrong = any(cell.measured["n_attacked"] < cell.measured["n"] for cell in cells)
    right = "attacked where the victim gets them right"
    if aims != "any wrong one":
        right = f"wanted class: {aims}"
        right += "; what the victim answers so already is left out" if wrong else ""
    over = [
        ("queries to success", "the images won", "queries_to_success" in columns),
        ("queries spent", "all attacked", "queries" in columns),
        ("distances ([0, 1] pixels)", "the images won", any(cell.distances for cell in cells)),
    ]
    shown = [(name, images) for name, images, shows in over if shows]
    means = [f"{name}{' are means' * (place == 0)} over {images}" for place, (name, images) in enumerate(shown)]
    intervals = "95 % intervals: Wilson's of rates, Student's t of means"
    if kinds := {cell.ratio["of"] == "median_at" for cell in cells if cell.ratio}:
        of = [text for medians, text in RATIOS.items() if medians in kinds]
        intervals += f", bootstrap over images of ratios, which are of {' or of '.join(of)}"
    if any(cell.case is None and cell.config["settings"].get("targeted") == "all" for cell in cells):
        intervals += "; those of rates and means take the classes of an image for independent, which they are not"
    in_ball = [cell for cell in cells if cell.config["settings"].get("attack.init_args.epsilon") is not None]
    norms = _distinct(in_ball, lambda cell: NORMS[cell.norm] if cell.norm else "")
    budget = f"{_numbers(cell.setting('budget') for cell in cells)} queries an image"
    balls = _numbers(cell.config["settings"].get("attack.init_args.epsilon") for cell in cells)
    sentences = [
        f"{_images(cells)}{f', {right}' if wrong or aims != 'any wrong one' else ''}",
        _victims(cells),
        f"Epsilon {balls} in {norms}, budget {budget}" if balls else f"Budget {budget}",
        *([", ".join(means).capitalize()] if means else []),
        *_marks_caption(columns),
        intervals,
    ]
    return [*sentences, tuned] if (tuned := tuning_text(cells)) else sentences


def _marks_caption(columns: Sequence[Column]) -> list[str]:
    """Say over which images the columns at numbers of queries are."""
    shown = ", ".join(text for column, text in MARKED.items() if column in columns)
    return (
        [f"At a number of queries an image counts with its nearest adversarial image by then: {shown}"] if shown else []
    )


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
        if _unit(cell) == "problems":
            return f"{told['count']:,} problems of {cell.dataset}"
        every = f", one in {told['stride']}" if told["stride"] > 1 else ""
        start = f", from place {told['start']} on" if told["start"] else ""
        return f"{told['count']:,} images of {cell.dataset} ({told['split']} split{every}{start})"

    return _distinct(cells, images)


def _unit(cell: Cell) -> str:
    """What the figures of a cell are means over: problems that are no images come from no split of a dataset."""
    return "images" if "split" in cell.images else "problems"


def _victims(cells: Sequence[Cell]) -> str:
    def victim(cell: Cell) -> str:
        accuracy = cell.subject["accuracy"]
        return cell.subject["name"] + ("" if accuracy is None else f" ({100 * accuracy:.2f} % of the test split right)")

    accuracies = [cell.subject["accuracy"] for cell in cells if cell.subject["accuracy"] is not None]
    if len(set(map(victim, cells))) > MANY_VICTIMS and accuracies:
        least, most = (f"{100 * share:.2f}" for share in (min(accuracies), max(accuracies)))
        return f"Victims: a line's file names its own ({least} to {most} % of the test split right)"
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
