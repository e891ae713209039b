"""The images that a published picture shows: originals and adversarial images of the first few, one small file a line.

Shapes: n rows (images, or pairs of image and target), C x H x W pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from callbacks.selection import Selection
from experiments.experiment import Experiment, Row
from experiments.plan import ROOT, PlannedStage
from experiments.resolving import build_data
from zeroth.records import file_sha256

LEVELS = 255  # of a published pixel: a picture needs no more


def copy_examples(experiment: Experiment, stage: PlannedStage, row: Row, folder: Path) -> dict[str, str] | None:
    """Copy the images that the table's pictures show of a row into a published folder.

    The file has ``index``, ``label``, ``target`` (-1 for none), ``predicted`` and ``success`` (n,), and, as bytes,
    ``original`` and ``adversarial`` (n, C, H, W).

    Returns:
        ``file`` in the folder and its ``sha256``; None where no picture shows images of the row.

    Raises:
        FileNotFoundError: the run did not keep its adversarial images; says what to do.
    """
    methods = {one.method for one in experiment.rows if one.stage == row.stage}  # cases share the run
    strips = [picture for picture in experiment.pictures.values() if picture.kind == "strip"]
    shown = [picture.images or 0 for picture in strips if not picture.rows or methods & set(picture.rows)]
    if not shown:
        return None
    data, selection = build_data(stage.data), Selection(**stage.images)
    data.prepare_data()
    images = data.dataset(selection.split)
    places = selection.places(len(images))[: max(shown)]
    clean = {int(item["index"]): item["image"].numpy() for item in (images[place] for place in places)}
    path = folder / "examples" / f"{stage.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_gathered(stage, clean), path)
    return {"file": path.relative_to(folder).as_posix(), "sha256": file_sha256(path)}


def read_examples(path: Path) -> dict[str, NDArray[Any]]:
    """Read a file of :func:`copy_examples`, pixels as numbers in [0, 1]."""
    told = load_file(path)
    return {key: value / LEVELS if key in ("original", "adversarial") else value for key, value in told.items()}


def _gathered(stage: PlannedStage, clean: dict[int, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """The rows of a run that are of these images, by image and target."""
    run = ROOT / stage.folder
    columns: dict[str, list[Any]] = {}
    for path in sorted((run / "adversarial").glob("*.safetensors")):
        piece = load_file(path)
        kept = np.isin(piece["index"], list(clean))
        piece.setdefault("target", np.full(len(kept), -1))
        for name, values in piece.items():
            columns.setdefault(name, []).append(values[kept])
    whole = {name: np.concatenate(values) for name, values in columns.items()}
    if missing := set(clean) - set(whole.get("index", np.empty(0)).tolist()):
        raise FileNotFoundError(
            f"stage {stage.name} kept no adversarial images of {len(missing)} images that a picture shows in {run}: "
            f"delete {run} and give the same command again"
        )
    # A batch that was run twice, by another number of ranks say, is there twice.
    _, order = np.unique(np.stack([whole["index"], whole["target"]]), axis=1, return_index=True)
    whole = {name: values[order] for name, values in whole.items()}
    whole["original"] = np.stack([clean[int(index)] for index in whole["index"]])
    for name in ("original", "adversarial"):
        whole[name] = np.round(np.clip(whole[name], 0, 1) * LEVELS).astype(np.uint8)
    return {name: np.ascontiguousarray(values) for name, values in whole.items()}
