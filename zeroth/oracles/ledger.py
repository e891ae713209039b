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
        keep_misses: also keep of each image the point of least margin.
    """

    images: Tensor
    keep_misses: bool = False
    queries: Tensor = field(init=False)  # (B,) int64, spent
    first: Tensor = field(init=False)  # (B,) int64, the number of the first adversarial query, -1 before
    best: Tensor = field(init=False)  # (B, C, H, W)
    best_label: Tensor = field(init=False)  # (B,) int64, the victim's answer to ``best``, -1 before
    best_distance: Tensor = field(init=False)  # (B,) float32, inf before
    miss: Tensor = field(init=False)  # (B, C, H, W) the point of least margin, kept on demand
    miss_margin: Tensor = field(init=False)  # (B,) its margin, inf before
    # Each improvement: row (int64), query number (int64), distance (float32); lists of equal-length tensors.
    events: list[tuple[Tensor, Tensor, Tensor]] = field(init=False, default_factory=list)
    # What an attack counts beside its queries, by name, each (B,) int64.
    tallies: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.best = self.images.clone()
        self.queries = torch.zeros(len(self.images), dtype=torch.int64, device=self.images.device)
        self.first = torch.full_like(self.queries, -1)
        self.best_label = torch.full_like(self.queries, -1)
        self.best_distance = torch.full_like(self.queries, torch.inf, dtype=torch.float32)
        self.miss_margin = self.best_distance.clone()
        self.miss = self.images.clone() if self.keep_misses else self.images[:0]

    @property
    def success(self) -> Tensor:
        """(B,) bool: rows with an adversarial point."""
        return self.first > 0

    def tally(self, name: str, rows: Tensor, counts: Tensor) -> None:
        """Add counts (n,) of the attack's own to those of distinct rows (n,); reports show their sums."""
        self.tallies.setdefault(name, torch.zeros_like(self.queries))[rows] += counts

    def improve(self, rows: Tensor, order: Tensor, points: Tensor, labels: Tensor, distances: Tensor) -> None:
        """Take adversarial points that are nearer than their row's best, or its first.

        Args:
            rows: (M,) int64; a row may stand more than once.
            order: (M,) int64, 0-based place of each point after the row's ``queries`` so far.
            points: (M, C, H, W).
            labels: (M,) int64 answers.
            distances: (M,).
        """
        if len(rows) == 0:
            return
        keys, place = rows.unique(return_inverse=True)
        # One line a row, its points in the order they were asked, inf where a point was not adversarial.
        sizes = distances.new_full((len(keys), int(order.max()) + 1), torch.inf)
        sizes[place, order] = distances
        numbers = self.queries[keys].unsqueeze(1) + torch.arange(1, sizes.shape[1] + 1, device=rows.device)
        first = (sizes < torch.inf).int().argmax(1, keepdim=True)
        self.first[keys] = torch.where(self.first[keys] > 0, self.first[keys], numbers.gather(1, first)[:, 0])
        best = self.best_distance[keys].unsqueeze(1)
        before = torch.cat([best, sizes.cummin(1).values[:, :-1].minimum(best)], 1)
        row, column = (sizes < before).nonzero(as_tuple=True)
        if len(row):
            self.events.append((keys[row].cpu(), numbers[row, column].cpu(), sizes[row, column].cpu()))
        nearest, column = sizes.min(1)
        point = torch.empty(sizes.shape, dtype=torch.int64, device=rows.device)
        point[place, order] = torch.arange(len(rows), device=rows.device)
        nearer = nearest < best[:, 0]
        take = point[nearer, column[nearer]]
        self.best[rows[take]] = points[take]
        self.best_label[rows[take]] = labels[take]
        self.best_distance[rows[take]] = distances[take]

    def near(self, rows: Tensor, points: Tensor, margins: Tensor) -> None:
        """Take the points of least margin, the first of equal ones.

        Args:
            rows: (M,) int64; a row may stand more than once.
            points: (M, C, H, W).
            margins: (M,).
        """
        least = self.miss_margin.scatter_reduce(0, rows, margins, "amin")
        lower = (margins == least[rows]) & (margins < self.miss_margin[rows])
        place = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(self.queries, len(rows)).scatter_reduce(0, rows[lower], place[lower], "amin")
        take = first[first < len(rows)]
        self.miss[rows[take]], self.miss_margin[rows[take]] = points[take], margins[take]
