"""Look at results on disk: ``python -m zeroth.records show runs/attack/a runs/certify/b``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.text import Text

from zeroth.records.reading import merge_records
from zeroth.records.summary import Norm, attack_summary, certificate_summary
from zeroth.records.tables import NO_VALUE, attack_frame, certificate_frame, markdown_table, rich_table, terminal

# Radii of the certified accuracy, l_2 in [0, 1] pixels: those of the papers' tables.
RADII = (0.0, 0.25, 0.5, 0.75)


def runs_frame(folders: Sequence[Path]) -> pd.DataFrame:
    """Summarize runs of either kind in one table, a column a run, from the record files in their folders.

    Args:
        folders: run folders, ``runs/<job>/<name>``.

    Returns:
        text: a line a figure, in percent with 95 % intervals where it is a rate.

    Raises:
        FileNotFoundError: a folder without records.
        ValueError: record files that do not belong together.
    """
    lines = []
    for folder in folders:
        rows, name = merge_records(folder), "\n".join(folder.resolve().parts[-2:])  # job over name, to be narrow
        if "radius" in rows:
            lines.append(certificate_frame({name: certificate_summary(rows, RADII)}))
        else:
            lines.append(attack_frame({name: attack_summary(rows)}, norm=norm_of(folder)))
    table = pd.concat(lines).fillna(NO_VALUE).set_index("run").T
    return table.rename_axis(columns=None).reset_index(names="")


def norm_of(folder: Path) -> Norm:
    """Return the norm of an attack's distances, as its report tells; linf where a killed run has no report yet."""
    report = folder / "report.json"
    return json.loads(report.read_text())["norm"] if report.is_file() else "linf"


def files_of(folders: Sequence[Path]) -> list[str]:
    """Name the pictures and the W&B folders of runs, one a line."""
    pictures = [f"picture  {path}" for folder in folders for path in sorted(folder.glob("*.png"))]
    return pictures + [f"W&B      {path}" for folder in folders if (path := folder / "wandb").is_dir()]


def show(folders: Sequence[Path], *, markdown: bool) -> None:
    """Print the table of :func:`runs_frame` and, in the terminal's form, where the pictures and W&B runs lie."""
    table = runs_frame(folders)
    if markdown:
        print(markdown_table(table), end="")
        return
    console = terminal()
    console.print(rich_table(table))
    for line in files_of(folders):
        console.print(Text(line), soft_wrap=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zeroth.records", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("show", help="print one table of several runs", allow_abbrev=False)
    shown.add_argument("folders", nargs="+", type=Path, help="run folders, runs/<job>/<name>")
    shown.add_argument("--markdown", action="store_true", help="print the table alone, for a README")
    options = parser.parse_args(words)
    try:
        show(options.folders, markdown=options.markdown)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
