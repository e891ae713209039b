"""What an attack leaves beside its rows: curves, tallies and pictures, one file a batch, so that a kill loses none.

Shapes: B images of a batch, N of a run, M marks of queries, C x H x W pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeroth.attacks import AttackResult
from zeroth.records import replacing

EXAMPLES = 8  # kept of each batch, for the picture of adversarial examples
MARKS = 64  # points of a curve over queries, beside the round numbers
NO_TARGET = -1
TALLY = "tally."  # begins the names of an attack's tallies in a file
PieceKey = tuple[int, int]


def query_marks(budget: int) -> list[int]:
    """Numbers of queries at which curves are read, ascending up to the budget.

    64 that are evenly spaced in their logarithm, for pictures, and all numbers of one significant digit (200, 500,
    4,000 ...), which tables show.
    """
    spaced = np.geomspace(1, budget, MARKS).round().astype(int)
    whole = np.outer(10 ** np.arange(len(str(budget))), np.arange(1, 10))
    return np.union1d(spaced, whole[whole <= budget]).tolist()


def save_piece(folder: Path, key: str, result: AttackResult, marks: list[int], *, adversarial: bool) -> None:
    """Write curves/<key> and, if wanted, adversarial/<key> (.safetensors) of a batch, each as a whole at once."""
    shown = result.success.nonzero().flatten()[:EXAMPLES]
    target = torch.full_like(result.indices, NO_TARGET) if result.targets is None else result.targets
    _write(
        folder / "curves" / f"{key}.safetensors",
        {
            "index": result.indices,
            "target": target,
            "marks": torch.tensor(marks),
            "distance": result.best_distance_at(marks).T,  # (B, M)
            "shown": result.indices[shown],
            "shown_target": target[shown],
            "label": result.labels[shown],
            "predicted": result.predicted[shown],
            "image": result.images[shown],
            "adversarial": result.adversarial[shown],
            **{f"{TALLY}{name}": counts for name, counts in result.tallies.items()},
        },
    )
    if adversarial:
        _write(
            folder / "adversarial" / f"{key}.safetensors",
            {
                "index": result.indices,
                "target": target,
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
        keys: what the N rows are known by, ascending: dataset index and target, NO_TARGET of untargeted attacks and
            where older pieces do not tell.
        marks: (M,) numbers of queries, those that all pieces have.
        distance: (N, M) distance of the best point found within each mark; inf where there was none.
        shown: keys of the n examples, n at most 8.
        label, predicted: (n,) classes of the examples before and after.
        image, adversarial: (n, C, H, W).
        tallies: what the attack counted beside its queries, by name, over all rows.
    """

    keys: list[PieceKey]
    marks: Tensor
    distance: Tensor
    shown: list[PieceKey]
    label: Tensor
    predicted: Tensor
    image: Tensor
    adversarial: Tensor
    tallies: dict[str, int]

    def keys_of(self, rows: pd.DataFrame) -> list[PieceKey]:
        """Return the keys of attack rows of the same run."""
        told = any(target != NO_TARGET for _, target in self.keys)
        targets = rows["target"].tolist() if told else [NO_TARGET] * len(rows)
        return list(zip(rows["index"].tolist(), targets, strict=True))

    def distances(self, rows: pd.DataFrame) -> NDArray[np.float32]:
        """Return the distances (M, n) of attack rows of the same run, as far as they have pieces."""
        place = {key: number for number, key in enumerate(self.keys)}
        return self.distance[[place[key] for key in self.keys_of(rows) if key in place]].T.numpy()


def load_pieces(folder: Path) -> Pieces | None:
    """Merge the pieces of all batches by index and target; None without pieces."""
    paths = sorted((folder / "curves").glob("*.safetensors"))
    if not paths:
        return None
    curves: dict[PieceKey, tuple[Tensor, Tensor]] = {}
    examples: dict[PieceKey, tuple[Tensor, ...]] = {}
    counts: dict[str, dict[PieceKey, int]] = {}
    common: set[int] | None = None
    for path in paths:
        piece = load_file(path)
        marks = piece["marks"]
        common = set(marks.tolist()) & (set(marks.tolist()) if common is None else common)
        held = _keys(piece, "index", "target")
        curves.update((key, (marks, row)) for key, row in zip(held, piece["distance"], strict=True))
        for name in sorted(name for name in piece if name.startswith(TALLY)):
            told = counts.setdefault(name.removeprefix(TALLY), {})
            told.update(zip(held, piece[name].tolist(), strict=True))
        if len(examples) < EXAMPLES:
            kept = (piece[name] for name in ("label", "predicted", "image", "adversarial"))
            examples.update(zip(_keys(piece, "shown", "shown_target"), zip(*kept, strict=True), strict=True))
    # A run that another version of the project began, and this one went on with, has pieces of other marks too.
    shared = torch.tensor(sorted(common or ()), dtype=torch.int64)
    kept_keys = sorted(examples)[:EXAMPLES]
    kept_rows = [examples[key] for key in kept_keys]
    columns = [torch.stack(column) for column in zip(*kept_rows, strict=True)] if kept_rows else [torch.empty(0)] * 4
    keys = sorted(curves)
    distance = torch.stack([row[torch.isin(marks, shared)] for marks, row in map(curves.__getitem__, keys)])
    tallies = {name: sum(told.values()) for name, told in counts.items()}
    label, predicted, image, adversarial = columns
    return Pieces(keys, shared, distance, kept_keys, label, predicted, image, adversarial, tallies)


def _keys(piece: dict[str, Tensor], index: str, target: str) -> list[PieceKey]:
    indices = piece[index].tolist()
    targets = piece[target].tolist() if target in piece else [NO_TARGET] * len(indices)  # older pieces do not tell
    return list(zip(indices, targets, strict=True))


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
