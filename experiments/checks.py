"""Whether a published table is what its records say: each cell, page and picture against what it is made from."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.cells import Cell, machine_paths, measure, method_settings
from experiments.page import PAGE_FILE, Page, fill_blocks, read_page
from experiments.pictures import drawn_from, source_hash
from zeroth.records import file_sha256, header_path, read_records

# Other versions of NumPy and SciPy may differ in the last digits of an interval.
PRECISION = 1e-9


def check_published(folder: Path) -> list[str]:
    """Compare a published folder with its own records; returns a line a fault, the file first, none where all agree."""
    try:
        page, cells = read_page(folder)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    faults = [fault for cell in cells for fault in _check_cell(folder, page, cell)]
    for name, text in (("table.md", page.table(cells)), ("README.md", page.readme(cells))):
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            faults.append(f"{path} is not what the cells say: python -m experiments.publish {folder}")
    for stem, picture in page.pictures.items():
        path = folder / f"{stem}.png"
        if not path.is_file() or drawn_from(path) != source_hash(picture, cells):
            faults.append(f"{path} was not drawn from these records: python -m experiments.publish {folder}")
    known = {folder / name for name in (PAGE_FILE, "table.md", "README.md", *(f"{stem}.png" for stem in page.pictures))}
    for cell in cells:
        records = folder / cell.records["file"]
        known |= {folder / f"{cell.stage}.json", records, *([folder / cell.tuning["file"]] if cell.tuning else [])}
        known |= {header_path(records)} if cell.kind == "certificate" else set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path not in known:
            faults.append(f"{path} belongs to no line of the table")
        elif path.suffix == ".json":
            faults += [f"{path} tells a path of a machine, {found}" for found in machine_paths(_json(path))]
    return faults


def check_readme(readme: Path, results: Path | None = None) -> list[str]:
    """Compare the results blocks of a Markdown file with the tables they show; returns a line a fault.

    Args:
        readme: the file.
        results: folder of all published tables; None takes ``results`` beside the file.
    """
    text = readme.read_text(encoding="utf-8")
    try:
        filled = fill_blocks(text, results or readme.parent / "results")
    except (ValueError, FileNotFoundError) as error:
        return [f"{readme}: {error}"]
    if filled == text:
        return []
    return [f"{readme}: a results block is not its table.md: python -m experiments.publish --readme {readme}"]


def difference(one: Any, two: Any, field: str) -> str | None:
    """Name the first field in which two nested values differ by more than rounding; None where they agree."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        pairs = {f"{field}.{key}": (one.get(key), two.get(key)) for key in [*one, *(two.keys() - one.keys())]}
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = {f"{field}[{place}]": pair for place, pair in enumerate(zip(one, two, strict=True))}
    else:
        numbers = all(isinstance(value, int | float) for value in (one, two))
        same = math.isclose(one, two, rel_tol=PRECISION, abs_tol=PRECISION) if numbers else one == two
        return None if same else field
    return next((found for name, pair in pairs.items() if (found := difference(*pair, name))), None)


def _check_cell(folder: Path, page: Page, cell: Cell) -> list[str]:
    path, faults = folder / f"{cell.stage}.json", []
    copies = [cell.records, *([cell.tuning] if cell.tuning else [])]
    for copy in copies:
        file = folder / copy["file"]
        if not file.is_file():
            return [f"{file} is missing: {path.name} is made from it"]
        if file_sha256(file) != copy["sha256"]:
            faults.append(f"{file} is not the file that {path.name} was made from: its sha256 differs")
    records = folder / cell.records["file"]
    try:
        measured, queries, count = measure(records, cell.kind, page.radii, cell.config["settings"])
        expected: dict[str, Any] = {"measured": measured, "queries": queries, "images": {**cell.images, "count": count}}
        if cell.kind != "study":
            expected |= _told_by_header(records, cell)
    except (ValueError, FileNotFoundError) as error:
        return [*faults, f"{records} cannot be read: {error}"]
    for name, value in expected.items():
        if found := difference(getattr(cell, name), value, name):
            faults.append(f"{path}: {found} is not what {cell.records['file']} says")
    return faults


def _told_by_header(records: Path, cell: Cell) -> dict[str, Any]:
    """Fields of the cell as the header of its records has them."""
    header, _ = read_records(records)
    return {
        "seed": header.seed,
        "subject": {**cell.subject, "checkpoint_sha256": header.checkpoint_sha256},
        "config": {**cell.config, "hash": header.config_hash, "settings": method_settings(header.config)},
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # told of where it is read
