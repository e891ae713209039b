"""Publish a table: cells, records, trials, pictures and pages of its finished runs, under results/.

``python -m experiments.publish results/zo_ngd/table1_mnist/mnist`` makes the pages of a published folder again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cli import plain_messages
from experiments.cells import build_cell
from experiments.experiment import Experiment
from experiments.page import PAGE_VERSION, Page, fill_blocks, render, write_page, write_text
from experiments.plan import Plan

# What a published folder holds; an older table's files of these sorts are removed.
OWN_FILES = ("*.json", "*.png", "*.md", "records/*", "tuning/*")


def publish(experiment: Experiment, plan: Plan, results: Path) -> Path:
    """Publish the finished runs of an experiment.

    The whole folder is made beside the old one first, so that a run that is not complete, or a full disk, leaves the
    old one as it was; then file takes the place of file.

    Args:
        experiment: the table.
        plan: where its runs lie.
        results: folder of all published tables.

    Returns:
        ``results/<paper>/<table>/<scale>``.

    Raises:
        FileNotFoundError: a run is missing, or has no rows yet.
        ValueError: a run that is not complete; the message names the stage.
    """
    folder = results / plan.experiment / plan.scale
    folder.mkdir(parents=True, exist_ok=True)
    file = plan.file.as_posix() if not plan.file.is_absolute() else f"configs/experiment/{plan.experiment}.yaml"
    page = Page(
        schema_version=PAGE_VERSION,
        experiment=plan.experiment,
        scale=plan.scale,
        file=file,
        title=experiment.title,
        paper=experiment.paper,
        text=experiment.text,
        kind=experiment.kind,
        radii=experiment.radii,
        rows=[row.stage for row in experiment.rows],
        pictures=experiment.pictures,
    )
    # Beside the old files: a rename is atomic only within one disk.
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=folder.parent) as name:
        new = Path(name)
        write_page(new, page, [build_cell(experiment, plan, row, new) for row in experiment.rows])
        render(new)
        files = {path.relative_to(new) for path in new.rglob("*") if path.is_file()}
        for path in sorted(files):
            (folder / path).parent.mkdir(exist_ok=True)
            (new / path).replace(folder / path)
    for pattern in OWN_FILES:
        for path in folder.glob(pattern):
            if path.relative_to(folder) not in files:
                path.unlink()
    return folder


def refresh_readme(readme: Path, results: Path | None = None) -> None:
    """Fill the results blocks of a Markdown file anew, see :func:`~experiments.page.fill_blocks`.

    Args:
        readme: the file.
        results: folder of all published tables; None takes ``results`` beside the file.

    Raises:
        FileNotFoundError: no such file, or a block names a folder without a table.
        ValueError: a block that is not whole.
    """
    text = readme.read_text(encoding="utf-8")
    if (filled := fill_blocks(text, results or readme.parent / "results")) != text:
        write_text(readme, filled)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path, help="published folders, results/<paper>/<table>/<scale>")
    parser.add_argument("--readme", type=Path, help="Markdown file whose results blocks are filled anew")
    options = parser.parse_args(words)
    if not options.folders and options.readme is None:
        parser.error("give published folders, or --readme README.md")
    with plain_messages():
        for folder in options.folders:
            render(folder)
        if options.readme is not None:
            refresh_readme(options.readme)


if __name__ == "__main__":
    main()
