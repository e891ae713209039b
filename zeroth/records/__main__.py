"""Look at results on disk.

``python -m zeroth.records show runs/attack/a runs/certify/b`` puts runs side by side,
``python -m zeroth.records compare runs/attack/a runs/attack/b`` pairs two of them image by image.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pandas as pd
from rich.text import Text

from zeroth.records.cases import CASES, Case, select_case
from zeroth.records.compare import Bootstrap, compare_attacks, compare_certificates
from zeroth.records.compare_tables import cautions, comparison_frame, contingency_frame, left_out_line, same_run
from zeroth.records.json_io import read_json
from zeroth.records.reading import load, merge_records, source_paths
from zeroth.records.schema import RecordHeader
from zeroth.records.summary import Norm, attack_summary, certificate_summary
from zeroth.records.tables import NO_VALUE, attack_frame, certificate_frame, markdown_table, rich_table, terminal

# Radii of the certified accuracy, l_2 in [0, 1] pixels: those of the papers' tables.
RADII = (0.0, 0.25, 0.5, 0.75)


def runs_frame(folders: Sequence[Path], case: Case | None = None) -> pd.DataFrame:
    """Summarize runs of either kind in one table, a column a run, from the record files in their folders.

    Args:
        folders: run folders, ``runs/<job>/<name>``.
        case: of runs that attacked every wrong class, the row of each image; None takes all rows.

    Returns:
        text: a line a figure, in percent with 95 % intervals where it is a rate.

    Raises:
        FileNotFoundError: a folder without records.
        ValueError: record files that do not belong together, or a case of a run with one row an image.
    """
    lines = []
    for folder in folders:
        _must_exist(folder)
        rows, name = merge_records(folder), "\n".join(name_parts(folder))  # job over name, to be narrow
        if case is not None:
            rows, name = _case_rows(folder, rows, case), f"{name}\n{case} case"
        if "radius" in rows:
            lines.append(certificate_frame({name: certificate_summary(rows, RADII)}))
        else:
            lines.append(attack_frame({name: attack_summary(rows)}, norm=norm_of(folder)))
    table = pd.concat(lines).fillna(NO_VALUE).set_index("run").T
    return table.rename_axis(columns=None).reset_index(names="")


def name_parts(run: Path) -> tuple[str, ...]:
    """Name a run by the last two parts of its path, ``<job>/<name>`` of a run folder."""
    return run.resolve().parts[-2:]


def norm_of(run: Path) -> Norm:
    """Return the norm of an attack's distances, linf where nothing tells it (yet).

    Args:
        run: a run folder, whose report.json tells; or a record file, told by the report beside it, or, where it is
            published as ``records/<stage>.jsonl``, by the cell ``<stage>.json`` above it.
    """
    place = (run.parent if run.is_file() else run) / "report.json"
    if run.is_file() and run.absolute().parent.name == "records":
        place = run.absolute().parents[1] / f"{run.stem}.json"
    if not place.is_file():
        return "linf"
    return read_json(place, remedy="give the command of the run again, which writes it anew").get("norm", "linf")


def header_of(run: Path) -> RecordHeader:
    """Return the header that the record files of a run share, of a run that :func:`merge_records` has read."""
    headers = (load(path).header for path in source_paths(run, None))
    return next(header for header in headers if header is not None)


def files_of(folders: Sequence[Path]) -> list[str]:
    """Name the pictures and the W&B folders of runs, one a line."""
    pictures = [f"picture  {path}" for folder in folders for path in sorted(folder.glob("*.png"))]
    return pictures + [f"W&B      {path}" for folder in folders if (path := folder / "wandb").is_dir()]


def show(folders: Sequence[Path], *, markdown: bool, case: Case | None = None) -> None:
    """Print the table of :func:`runs_frame` and, in the terminal's form, where the pictures and W&B runs lie."""
    table = runs_frame(folders, case)
    if markdown:
        print(markdown_table(table), end="")
        return
    console = terminal()
    console.print(rich_table(table))
    for line in files_of(folders):
        console.print(Text(line), soft_wrap=True)


def compare(runs: tuple[Path, Path], *, norm: Norm | None, resampling: Bootstrap, markdown: bool) -> None:
    """Print how run B differs from run A, image by image.

    Args:
        runs: A and B, each a run folder or a record file.
        norm: the distance compared; None takes that of each run, see :func:`norm_of`.
        resampling: how intervals are drawn.
        markdown: print Markdown tables.

    Raises:
        FileNotFoundError: no such run, or one without records.
        ValueError: runs of different kinds, images, labels or targets.
    """
    for run in runs:
        _must_exist(run)
    a, b = (merge_records(run) for run in runs)
    headers = [header_of(run) for run in runs]
    if headers[0].pairs != headers[1].pairs:
        raise ValueError(
            "one run has a row for each pair of an image and a wrong class (--targeted all) and the other has one row "
            "an image: compare two runs with the same --targeted"
        )
    alike = [text for text in [same_run(*headers)] if text]
    warned = [f"caution  {text}" for text in [*cautions(*headers), *alike]]
    if "radius" in a:
        told = compare_certificates(a, b, radii=RADII, resampling=resampling)
        title, rate = f"CA({RADII[0]:g})", told["certified_accuracy"][0]
    else:
        norms = [norm] if norm else list(dict.fromkeys(map(norm_of, runs)))
        told = compare_attacks(a, b, norms=norms, resampling=resampling)
        title, rate = "success", told["success"]
        warned += [f"caution  {text}" for text in [left_out_line(told)] if text]
        if headers[0].pairs:
            warned.append(
                "caution  images are pairs with a target here; intervals and p take those of one image as apart"
            )
    names = ["/".join(name_parts(run)) for run in runs]
    tables = [comparison_frame(told, (names[0], names[1])), contingency_frame(title, rate)]
    drawn = f"BCa bootstrap of means, {resampling.resamples:,} resamples, seed {resampling.seed}"
    intervals = f"{100 * resampling.confidence:g} % intervals: Tango's score interval of rates, {drawn}"
    notes = [f"note     {intervals}; McNemar's exact test", *warned]
    if markdown:
        print("\n".join([*map(markdown_table, tables), *(f"- {line}" for line in notes)]))
        return
    console = terminal()
    for table in tables:
        console.print(rich_table(table))
    for line in notes:
        console.print(Text(line), soft_wrap=True)


def _case_rows(run: Path, rows: pd.DataFrame, case: Case) -> pd.DataFrame:
    header = header_of(run)
    if not header.pairs:
        raise ValueError(f"{run} has no cases: --case is for attacks with --targeted all, leave it out for this run")
    return select_case(rows, case, norm=norm_of(run), seed=header.seed)


def _must_exist(run: Path) -> None:
    if not run.exists():
        raise FileNotFoundError(f"{run} does not exist: give a run folder, runs/<job>/<name>, or a record file")


def command_line() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m zeroth.records",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("show", help="print one table of several runs", allow_abbrev=False)
    shown.add_argument("folders", nargs="+", type=Path, help="run folders, runs/<job>/<name>")
    shown.add_argument("--markdown", action="store_true", help="print the table alone, for a README")
    shown.add_argument(
        "--case", choices=CASES, help="of runs with --targeted all: one row an image; default: all pairs"
    )
    pair = commands.add_parser("compare", help="pair two runs image by image", allow_abbrev=False)
    pair.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="A and B: run folders or record files")
    pair.add_argument("--markdown", action="store_true", help="print Markdown tables, for a README")
    pair.add_argument("--norm", choices=get_args(Norm), help="distance compared; default: that of the runs' reports")
    pair.add_argument("--seed", type=int, default=0, help="of the bootstrap; default %(default)s")
    pair.add_argument("--resamples", type=int, default=9999, help="of the bootstrap; default %(default)s")
    pair.add_argument("--confidence", type=float, default=0.95, help="of the intervals; default %(default)s")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_line()
    options = parser.parse_args(words)
    try:
        if options.command == "show":
            show(options.folders, markdown=options.markdown, case=options.case)
        else:
            resampling = Bootstrap(seed=options.seed, resamples=options.resamples, confidence=options.confidence)
            compare(tuple(options.runs), norm=options.norm, resampling=resampling, markdown=options.markdown)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
