"""Whether a published table is what its records say: each cell, page and picture against what it is made from."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cells import (
    Cell,
    Origin,
    attack_settings,
    class_name,
    machine_paths,
    tuned_settings,
    tuning_told,
    unlike_victims,
    victim_named,
)
from experiments.marks import attack_norm
from experiments.measuring import measure
from experiments.page import PAGE_FILE, Page, fill_blocks, read_page, results_near
from experiments.pictures import drawn_from, source_hash
from experiments.wording import experiment_of, reworded
from zeroth.records import difference, file_sha256

# Other versions of NumPy and SciPy may differ in the last digits of an interval.
PRECISION = 1e-9
# Datamodules that hold whatever dataset lies in a folder, or problems that no dataset is of.
ANY_DATASET = ("ImageFolder", "ClassificationOptimizees", "QuadraticOptimizees")


def check_published(folder: Path) -> list[str]:
    """Compare a published folder with its own records, and with its experiment file where the checkout has it.

    Returns:
        a line a fault, the file first; none where all agree.
    """
    try:
        page, cells = read_page(folder)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    faults = [fault for cell in cells for fault in _check_cell(folder, page, cell)]
    faults += [f"{folder / PAGE_FILE}: {fault}" for fault in unlike_victims(cells)]
    faults += _check_words(folder, page, cells)
    for name, text in (("table.md", page.table(cells)), ("README.md", page.readme(cells))):
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            faults.append(f"{path} is not what the cells say: python -m experiments.publish {folder}")
    for stem, picture in page.pictures.items():
        path = folder / f"{stem}.png"
        if not path.is_file() or drawn_from(path) != source_hash(picture, cells):
            faults.append(f"{path} was not drawn from these records: python -m experiments.publish {folder}")
    known = {folder / path for path in page.files(cells)}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path not in known:
            faults.append(f"{path} belongs to no line of the table")
        elif path.suffix == ".json":
            faults += [f"{path} tells a path of a machine, {found}" for found in machine_paths(_json(path))]
    return faults


def check_readme(readme: Path) -> list[str]:
    """Compare the results blocks of a Markdown file with the tables they show; returns a line a fault."""
    text = readme.read_text(encoding="utf-8")
    try:
        filled = fill_blocks(text, results_near(readme))
    except (ValueError, FileNotFoundError) as error:
        return [f"{readme}: {error}"]
    if filled == text:
        return []
    return [f"{readme}: a results block is not its table.md: python -m experiments.publish --readme {readme}"]


def _check_words(folder: Path, page: Page, cells: Sequence[Cell]) -> list[str]:
    """Compare what the table says with the experiment file, where the checkout has it."""
    try:
        if (experiment := experiment_of(page)) is None:
            return []
        new, said = reworded(page, cells, experiment, folder)
    except (ValueError, FileNotFoundError) as error:
        return [f"{folder / PAGE_FILE}: {error}"]
    remedy = f"is not what {page.file} says: python -m experiments.publish {folder}"
    faults = []
    if found := difference(new.to_dict(), page.to_dict()):
        faults.append(f"{folder / PAGE_FILE}: {found[0]} {remedy}")
    published = {cell.name: cell for cell in cells}
    for cell in said:
        path, stage = folder / f"{cell.name}.json", experiment.stages[cell.stage]
        if found := difference(cell.to_dict(), published[cell.name].to_dict(), tolerance=PRECISION):
            faults.append(f"{path}: {found[0]} {remedy}")
        if cell.tuning and (trials := _json(folder / cell.tuning["file"])):
            ran = attack_settings(cell.config["settings"])
            if found := difference(tuned_settings(trials, stage.options), ran, "attack"):
                faults.append(f"{path}: {found[0]} is not what {cell.tuning['file']} and {page.file} say")
    return faults


def _check_cell(folder: Path, page: Page, cell: Cell) -> list[str]:
    path, faults = folder / f"{cell.name}.json", []
    for copy in (cell.records, cell.tuning, cell.examples, cell.curve):
        if copy is None:
            continue
        file = folder / copy["file"]
        if not file.is_file():
            return [f"{file} is missing: {path.name} is made from it"]
        if file_sha256(file) != copy["sha256"]:
            faults.append(f"{file} is not the file that {path.name} was made from: its sha256 differs")
    records = folder / cell.records["file"]
    try:
        origin = Origin.of(records, cell.kind)
        measured, queries, count = measure(
            records, cell.kind, page.radii, origin.settings, case=cell.case, norm=cell.norm, seed=origin.seed
        )
        told = _told_by(origin, page, cell)
        asked = origin.images.get("count")
    except (KeyError, ValueError, FileNotFoundError) as error:
        return [*faults, f"{records} cannot be read: {error}"]
    if cell.kind != "study" and asked not in (None, count):
        faults.append(f"{records} has {count} images, its header asks for {asked}")
    expected = told | {"measured": measured, "queries": queries, "images": {**origin.images, "count": count}}
    for name, value in expected.items():
        if found := difference(getattr(cell, name), value, name, tolerance=PRECISION):
            faults.append(f"{path}: {found[0]} is not what {cell.records['file']} says")
    if cell.tuning is None or (trials := _json(folder / cell.tuning["file"])) is None:
        return faults
    if found := difference(cell.tuning, cell.tuning | tuning_told(trials), "tuning"):
        faults.append(f"{path}: {found[0]} is not what {cell.tuning['file']} says")
    return faults


def _told_by(origin: Origin, page: Page, cell: Cell) -> dict[str, Any]:
    """Fields of a cell as its records and its page have them."""
    return {
        "experiment": page.experiment,
        "scale": page.scale,
        "kind": page.kind,
        "dataset": _dataset(origin, cell),
        "seed": origin.seed,
        "subject": {
            **cell.subject,
            "name": victim_named(origin.settings) or cell.subject["name"],
            "checkpoint_sha256": origin.checkpoint_sha256,
        },
        "config": {**cell.config, "hash": origin.config_hash, "settings": origin.method},
        "norm": (attack_norm(origin.settings) or cell.norm) if cell.kind == "attack" else None,
    }


def _dataset(origin: Origin, cell: Cell) -> str:
    """The dataset by the class of the images, in the cell's spelling; the cell's own where a class is of no dataset."""
    name = class_name(origin.settings["data.class_path"])
    plain = [re.sub(r"\W", "", text).lower() for text in (name, cell.dataset)]
    return cell.dataset if name in ANY_DATASET or plain[0] == plain[1] else name


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # told of where it is read
