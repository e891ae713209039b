"""What an attack leaves beside its rows: distortion curves and pictures, one file a batch, so that a kill loses none.

Shapes: B images of a batch, N of a run, M marks of queries, C x H x W pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeroth.attacks import AttackResult
from zeroth.records import replacing

EXAMPLES = 8  # kept of each batch, for the picture of adversarial examples
MARKS = 64  # points of a curve over queries


def query_marks(budget: int) -> list[int]:
    """Numbers of queries at which curves are read: at most 64, evenly spaced in their logarithm, up to the budget."""
    return np.unique(np.geomspace(1, budget, MARKS).round().astype(int)).tolist()


def save_piece(folder: Path, key: str, result: AttackResult, marks: list[int], *, adversarial: bool) -> None:
    """Write curves/<key> and, if wanted, adversarial/<key> (.safetensors) of a batch, each as a whole at once."""
    shown = result.success.nonzero().flatten()[:EXAMPLES]
    _write(
        folder / "curves" / f"{key}.safetensors",
        {
            "index": result.indices,
            "marks": torch.tensor(marks),
            "distance": result.best_distance_at(marks).T,  # (B, M)
            "shown": result.indices[shown],
            "label": result.labels[shown],
            "predicted": result.predicted[shown],
            "image": result.images[shown],
            "adversarial": result.adversarial[shown],
        },
    )
    if adversarial:
        _write(
            folder / "adversarial" / f"{key}.safetensors",
            {
                "index": result.indices,
                "label": result.labels,
                "predicted": result.predicted,
                "success": result.success,
                "adversarial": result.adversarial,
            },
        )


@dataclass
class Pieces:
    """The merged pieces of a run.

    Attributes:
        index: (N,) dataset indices, ascending.
        marks: (M,) numbers of queries.
        distance: (N, M) distance of the best point found within each mark; inf where there was none.
        shown: (n,) dataset indices of the examples, n at most 8.
        label, predicted: (n,) classes of the examples before and after.
        image, adversarial: (n, C, H, W).
    """

    index: Tensor
    marks: Tensor
    distance: Tensor
    shown: Tensor
    label: Tensor
    predicted: Tensor
    image: Tensor
    adversarial: Tensor


def load_pieces(folder: Path) -> Pieces | None:
    """Merge the pieces of all batches by index; None where there are none."""
    paths = sorted((folder / "curves").glob("*.safetensors"))
    if not paths:
        return None
    curves: dict[int, Tensor] = {}
    examples: dict[int, tuple[Tensor, ...]] = {}
    marks = torch.empty(0)
    for path in paths:
        piece = load_file(path)
        marks = piece["marks"]
        curves.update(zip(piece["index"].tolist(), piece["distance"], strict=True))
        if len(examples) < EXAMPLES:
            kept = (piece[name] for name in ("label", "predicted", "image", "adversarial"))
            examples.update(zip(piece["shown"].tolist(), zip(*kept, strict=True), strict=True))
    index = sorted(curves)
    shown = sorted(examples)[:EXAMPLES]
    rows = [examples[key] for key in shown]
    columns = [torch.stack(column) for column in zip(*rows, strict=True)] if rows else [torch.empty(0)] * 4
    distance = torch.stack([curves[key] for key in index])
    return Pieces(torch.tensor(index), marks, distance, torch.tensor(shown), *columns)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        with replacing(path) as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror or error}): free disk space and start again; "
            "recorded rows are kept",
        ) from error
