"""A published folder as its readers see it: table.md, README.md and pictures, all made from its cells and records."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.cells import Cell, CellKind, read_cell, require_version
from experiments.experiment import COLUMNS, Column, Picture, Scale
from experiments.pictures import save_picture
from experiments.tables import table_markdown
from zeroth.records import header_path, read_json, write_json, write_text

PAGE_FILE = "experiment.json"
# Raised when a field is added, removed or changes its meaning.
PAGE_VERSION = 1
BLOCK = re.compile(r"(<!-- results: (\S+) table -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
FILES = """\
## Files

One JSON file a line of the table: what the paper reports, what was measured, and where it comes from (seeds, config, hashes, commit, hardware, versions). `records/` holds the rows it was measured from, one an image; `tuning/` the trials of what was tuned. Two lines are compared, image by image, by `python -m zeroth.records compare` with two files of `records/`.
"""  # noqa: E501  a paragraph is one line of Markdown
CURVES = """
`curves/` holds, for each line, how near its images came within so many queries: safetensors with `index`, `target` (-1 for none), `marks` and `distance`, inf where nothing was found yet.
"""  # noqa: E501


@dataclass(frozen=True)
class Page:
    """What a published folder shows around its cells; ``experiment.json``.

    Args:
        schema_version: :data:`PAGE_VERSION`.
        experiment: id of the table, e.g. "zo_ngd/table1_mnist".
        scale: scale of the experiment.
        file: the experiment file, relative to the checkout.
        title: headline.
        paper: authors, venue, year.
        text: a paragraph below the headline.
        kind: what the table is of.
        radii: radii of a certificate table.
        rows: names of the lines, in order; each has a cell ``<name>.json``, see :attr:`Cell.name`.
        pictures: file stem -> figure.
        columns: what a table of attacks shows.
    """

    schema_version: int
    experiment: str
    scale: Scale
    file: str
    title: str
    paper: str
    text: str
    kind: CellKind
    radii: list[float]
    rows: list[str]
    pictures: dict[str, Picture]
    columns: list[Column] = field(default_factory=lambda: list(COLUMNS))

    def to_dict(self) -> dict[str, Any]:
        """Return the page as plain values, in the order of the file; what only some tables choose is left out."""
        told = asdict(self)
        for picture in told["pictures"].values():
            for name in ("images", "threshold"):
                if picture[name] is None:
                    del picture[name]
        if self.columns == list(COLUMNS):
            del told["columns"]
        return told

    def files(self, cells: Sequence[Cell]) -> set[Path]:
        """All files of the published folder, relative to it."""
        found = {
            Path(name) for name in (PAGE_FILE, "table.md", "README.md", *(f"{stem}.png" for stem in self.pictures))
        }
        for cell in cells:
            records = Path(cell.records["file"])
            found |= {Path(f"{cell.name}.json"), records}
            found |= {Path(copy["file"]) for copy in (cell.tuning, cell.examples, cell.curve) if copy}
            found |= {header_path(records)} if cell.kind == "certificate" else set()
        return found

    def table(self, cells: Sequence[Cell]) -> str:
        """Text of table.md."""
        return table_markdown(self.kind, self.paper, cells, self.columns)

    def readme(self, cells: Sequence[Cell]) -> str:
        """Text of README.md: title, text, table, notes, pictures, and how to make it again."""
        notes = notes_text(cells)
        pictures = "\n".join(
            f"![{picture.title or stem}]({stem}.png)\n" + f"\n{picture.title}.\n" * bool(picture.title)
            for stem, picture in self.pictures.items()
        )
        again = (
            "```bash\n"
            f"python reproduce.py {self.file} --scale {self.scale}\n"
            f"python -m experiments.publish results/{self.experiment}/{self.scale}  # this page alone, from its files\n"
            "```\n"
        )
        head = f"<!-- made by experiments/publish.py from the files beside it: do not edit -->\n# {self.title}\n"
        parts = [head, f"{self.paper}. Scale `{self.scale}`.\n", f"{self.text.strip()}\n" if self.text.strip() else ""]
        parts += [self.table(cells), notes, pictures, f"## Again\n\n{again}"]
        parts += [FILES + CURVES * any(cell.curve for cell in cells)]
        return "\n".join(part for part in parts if part)


def notes_text(cells: Sequence[Cell]) -> str:
    """A list of the notes, each once; those that are not common to all lines say whose they are."""
    methods: dict[str, list[str]] = {}
    for cell in cells:
        for note in _notes(cell):
            methods.setdefault(note, []).append(cell.method)
    lines = [note if len(whose) == len(cells) else f"{'; '.join(whose)}: {note}" for note, whose in methods.items()]
    return "".join(f"- {line}\n" for line in lines)


def _notes(cell: Cell) -> list[str]:
    """Notes of the experiment, and those that a study makes itself."""
    told = [cell.note] if cell.note else []
    if cell.kind == "study":
        told += [f"The paper reports: {cell.measured['reported']}."] if cell.measured.get("reported") else []
        told += cell.measured.get("notes", [])
    return told


def read_page(folder: Path) -> tuple[Page, list[Cell]]:
    """Read a published folder: its page and its cells, in the order of the lines.

    Raises:
        FileNotFoundError: no experiment.json, or a cell is missing.
        ValueError: a file that is damaged or of another version; the message names it and the remedy.
    """
    path = folder / PAGE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no published table: it has no {PAGE_FILE}")
    # The folder is <results>/<paper>/<table>/<scale>.
    paper, table, scale = folder.absolute().parts[-3:]
    remedy = f"publish the table again by python reproduce.py configs/experiment/{paper}/{table}.yaml --scale {scale}"
    told = read_json(path, remedy=remedy)
    try:
        require_version(told, PAGE_VERSION)
        pictures = {stem: Picture(**picture) for stem, picture in told.pop("pictures").items()}
        page = Page(**told, pictures=pictures)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no page of this version ({error}): {remedy}") from error
    remedy = f"publish the table again by python reproduce.py {page.file} --scale {page.scale}"
    return page, [read_cell(folder / f"{name}.json", remedy) for name in page.rows]


def write_page(folder: Path, page: Page, cells: Sequence[Cell]) -> None:
    """Write experiment.json and the cells."""
    write_json(folder / PAGE_FILE, page.to_dict())
    for cell in cells:
        write_json(folder / f"{cell.name}.json", cell.to_dict())


def render(folder: Path) -> None:
    """Make table.md, README.md and the pictures of a published folder from its cells and records.

    Raises:
        FileNotFoundError: as :func:`read_page`.
        ValueError: as :func:`read_page`, or a picture that the cells do not allow.
    """
    page, cells = read_page(folder)
    for stem, picture in page.pictures.items():
        save_picture(picture, cells, folder, stem)
    write_text(folder / "table.md", page.table(cells))
    write_text(folder / "README.md", page.readme(cells))


def results_near(page: Path) -> Path:
    """Folder of the tables that a Markdown file shows: ``results`` beside it, else its own, where it lies in that."""
    beside = page.parent / "results"
    return beside if beside.is_dir() else page.parent


def fill_blocks(text: str, results: Path) -> str:
    """Return a Markdown text with each of its blocks filled anew with the table.md of the published folder it names.

    A block is ``<!-- results: zo_ngd/table1_mnist/mnist table -->`` ... ``<!-- end of results -->``, the folder below
    ``results``.

    Raises:
        FileNotFoundError: a block names a folder without a table.
        ValueError: a block does not end, or says something else than "table".
    """
    if (begun := text.count("<!-- results:")) != (whole := len(BLOCK.findall(text))):
        raise ValueError(
            f"{begun} results blocks begin and {whole} are whole: each is <!-- results: FOLDER table --> on a line of "
            "its own, the table, <!-- end of results -->"
        )

    def fill(block: re.Match[str]) -> str:
        table = results / block[2] / "table.md"
        if not table.is_file():
            raise FileNotFoundError(f"a results block names {block[2]}, but there is no {table}")
        return block[1] + table.read_text(encoding="utf-8") + block[4]

    return BLOCK.sub(fill, text)
