"""The books of a trial: what each image has spent, and the best it has found at which query.

Shapes: B images, M adversarial points handed in at once.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Ledger:
    """Queries and best adversarial point of each image.

    Args:
        images: (B, C, H, W) clean images: what ``best`` holds until something adversarial is found.
    """

    images: Tensor
    queries: Tensor = field(init=False)  # (B,) int64, spent
    first: Tensor = field(init=False)  # (B,) int64, the number of the first adversarial query, -1 before
    best: Tensor = field(init=False)  # (B, C, H, W)
    best_label: Tensor = field(init=False)  # (B,) int64, the victim's answer to ``best``, -1 before
    best_distance: Tensor = field(init=False)  # (B,) float32, inf before
    # Each improvement: row (int64), query number (int64), distance (float32); lists of equal-length tensors.
    events: list[tuple[Tensor, Tensor, Tensor]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.best = self.images.clone()
        self.queries = torch.zeros(len(self.images), dtype=torch.int64, device=self.images.device)
        self.first = torch.full_like(self.queries, -1)
        self.best_label = torch.full_like(self.queries, -1)
        self.best_distance = torch.full_like(self.queries, torch.inf, dtype=torch.float32)

    @property
    def success(self) -> Tensor:
        """(B,) bool: rows with an adversarial point."""
        return self.first > 0

    def improve(self, rows: Tensor, order: Tensor, points: Tensor, labels: Tensor, distances: Tensor) -> None:
        """Take adversarial points that are nearer than their row's best, or its first.

        Args:
            rows: (M,) int64; a row may stand more than once, with its points in the order they were asked.
            order: (M,) int64, 0-based place of each point after the row's ``queries`` so far.
            points: (M, C, H, W).
            labels: (M,) int64 answers.
            distances: (M,).
        """
        if len(rows) == 0:
            return
        number = self.queries[rows] + order + 1
        self.first[rows] = torch.where(self.first[rows] > 0, self.first[rows], torch.iinfo(torch.int64).max)
        self.first.scatter_reduce_(0, rows, number, "amin")
        # Sorted by distance, then by query: the first of a row is its nearest; ties go to the earlier query.
        by_query = number.argsort(stable=True)
        by_distance = by_query[distances[by_query].argsort(stable=True)]
        nearest = by_distance[rows[by_distance].argsort(stable=True)]
        leading = torch.ones_like(nearest, dtype=torch.bool)
        leading[1:] = rows[nearest][1:] != rows[nearest][:-1]
        self._record(rows, number, distances)
        take = nearest[leading]
        take = take[distances[take] < self.best_distance[rows[take]]]
        self.best[rows[take]] = points[take]
        self.best_label[rows[take]] = labels[take]
        self.best_distance[rows[take]] = distances[take]

    def _record(self, rows: Tensor, number: Tensor, distances: Tensor) -> None:
        # A point improves when it is nearer than the row's best before this request and than all its earlier points of
        # it.
        order = number.argsort(stable=True)
        order = order[rows[order].argsort(stable=True)]
        row, query, dist = rows[order], number[order], distances[order]
        keep = dist < self.best_distance[row]
        row, query, dist = (t[keep].cpu() for t in (row, query, dist))
        if len(row) == 0:
            return
        kept, last_row, last = [], -1, 0.0
        for i, (r, d) in enumerate(zip(row.tolist(), dist.tolist(), strict=True)):
            if r != last_row or d < last:
                kept.append(i)
                last_row, last = r, d
        self.events.append((row[kept], query[kept], dist[kept]))
