"""What a user reads when an evaluation ends: the table, how complete it is, where to look."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from zeroth.records import rich_table, terminal


def tell_report(frame: pd.DataFrame, folder: Path, report: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """Print a report.

    Args:
        frame: its table.
        folder: the run folder.
        report: what report.json says.
        pictures: files in the folder.
    """
    console = terminal()
    console.print(rich_table(frame))
    if not report["complete"]:
        console.print(f"{report['recorded']} of {report['images']} images are recorded: other shards are to come")
    word = "pairs" if "cases" in report else "images"
    if capped := report.get("reasons", {}).get("total_budget", 0):
        console.print(
            f"the cap on all queries took {capped} {word} out of play: they count as robust, untried as they are"
        )
    if tallies := report.get("tallies"):
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in tallies.items())
        console.print(f"over all {word}: {counts}")
    console.print(f"run folder: {folder}", soft_wrap=True)
    console.print(f"pictures: {', '.join(path.name for path in pictures)}", soft_wrap=True)
    if (kept := folder / "wandb").is_dir():
        console.print(f"W&B: {kept}", soft_wrap=True)
