"""Publish a table: cells, records, trials, pictures and pages of its finished runs, under results/.

``python -m experiments.publish results/zo_ngd/table1_mnist/mnist`` makes the pages of a published folder again, in the
words that its experiment file has now.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from cli import plain_messages
from experiments.building import build_cell
from experiments.cells import unlike_victims
from experiments.experiment import Experiment
from experiments.measuring import compared
from experiments.page import PAGE_VERSION, Page, fill_blocks, read_page, render, results_near, write_page
from experiments.plan import Plan
from experiments.wording import experiment_of, reworded
from zeroth.records import write_text


def publish(experiment: Experiment, plan: Plan, results: Path) -> Path:
    """Publish the finished runs of an experiment.

    The whole folder is made beside the old one first, so that a run that is not complete, or a full disk, leaves the
    old one as it was, and makes none; then file takes the place of file. Files that the old table had and the new one
    has not are removed, and no others.

    Args:
        experiment: the table.
        plan: where its runs lie.
        results: folder of all published tables.

    Returns:
        ``results/<paper>/<table>/<scale>``.

    Raises:
        FileNotFoundError: a run is missing, or has no rows yet.
        ValueError: a run that is not complete, or not of the victim and the tuning of the table; the message names the
            stage.
    """
    folder = results / plan.experiment / plan.scale
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
        rows=[row.name for row in experiment.rows],
        pictures=experiment.pictures,
        columns=experiment.columns,
    )
    # Near the old files: a rename is atomic only within one disk.
    near = next(parent for parent in folder.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=near) as name:
        new = Path(name)
        cells = [build_cell(experiment, plan, row, new) for row in experiment.rows]
        if faults := unlike_victims(cells):
            raise ValueError(f"{faults[0]}: train stages of one table need configs of different names")
        cells = compared(cells, experiment, new)
        write_page(new, page, cells)
        render(new)
        files, old = page.files(cells), _files_of(folder)
        for path in sorted(files):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).replace(folder / path)
    _remove(folder, old - files)
    return folder


def refresh(folder: Path) -> None:
    """Make the pages of a published folder again, in the words of its experiment file where the checkout has it.

    Raises:
        FileNotFoundError: no published folder, or a file of it is missing.
        ValueError: a file of another version, or an experiment file with other lines.
    """
    page, cells = read_page(folder)
    if (experiment := experiment_of(page)) is not None:
        new, said = reworded(page, cells, experiment, folder)
        write_page(folder, new, said)
        _remove(folder, page.files(cells) - new.files(said))
    render(folder)


def refresh_readme(readme: Path) -> None:
    """Fill the results blocks of a Markdown file anew, see :func:`~experiments.page.fill_blocks`.

    Raises:
        FileNotFoundError: no such file, or a block names a folder without a table.
        ValueError: a block that is not whole.
    """
    text = readme.read_text(encoding="utf-8")
    if (filled := fill_blocks(text, results_near(readme))) != text:
        write_text(readme, filled)


def _remove(folder: Path, files: Iterable[Path]) -> None:
    for path in files:
        (folder / path).unlink(missing_ok=True)


def _files_of(folder: Path) -> set[Path]:
    """Files that a published folder says are its own; none where nothing can be read of it."""
    try:
        page, cells = read_page(folder)
    except (FileNotFoundError, ValueError):
        return set()
    return page.files(cells)


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
            refresh(folder)
        if options.readme is not None:
            refresh_readme(options.readme)


if __name__ == "__main__":
    main()
