"""What an attack returns, image by image.

Shapes: B images, C x H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeroth.oracles import Trial, distance


@dataclass(frozen=True)
class AttackResult:
    """The outcome of an attack on B images; all tensors on the CPU.

    Attributes:
        indices: (B,) dataset indices.
        labels: (B,) true labels.
        targets: (B,) wanted labels, None for untargeted attacks; -1 where the target was to be read off an answer and
            the victim was never asked.
        images: (B, C, H, W) clean images.
        adversarial: (B, C, H, W) nearest adversarial point that was asked; the clean image where none was found.
        success: (B,) bool.
        queries: (B,) images asked for each row, its first check included.
        queries_to_success: (B,) number of the first adversarial query, -1 where none.
        distance: (B,) of ``adversarial`` in the attack's norm, inf where none.
        predicted: (B,) the victim's class for ``adversarial``; -1 where the victim was never asked.
        seconds: (B,) from the start of the image's batch until it left play.
        reason: why each image left play: "success", "budget", "total_budget", "misclassified", "already_target" or an
            attack's own words.
        events: improvements of the best: rows, query numbers and distances, each (E,).
        tallies: what an attack counts beside its queries, by name, each (B,) int64.
    """

    indices: Tensor
    labels: Tensor
    targets: Tensor | None
    images: Tensor
    adversarial: Tensor
    success: Tensor
    queries: Tensor
    queries_to_success: Tensor
    distance: Tensor
    predicted: Tensor
    seconds: Tensor
    reason: list[str]
    events: tuple[Tensor, Tensor, Tensor] = field(repr=False)
    tallies: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return B."""
        return len(self.indices)

    def norms(self) -> dict[str, Tensor]:
        """Return l0 (pixels changed, a colour pixel once), l1, l2 and linf of ``adversarial - images``, each (B,)."""
        delta = self.adversarial - self.images
        l0 = (delta != 0).any(1).flatten(1).sum(1)
        return {"l0": l0, "l1": distance(delta, "l1"), "l2": distance(delta, "l2"), "linf": distance(delta, "linf")}

    def best_distance_at(self, marks: Sequence[int]) -> Tensor:
        """Return the distance of the best point found within each number of queries.

        Args:
            marks: M numbers of queries, any order.

        Returns:
            (M, B) distances in the attack's norm; inf where nothing adversarial was found yet.
        """
        rows, numbers, distances = self.events
        best = torch.full((len(marks), len(self)), torch.inf)
        for line, mark in zip(best, marks, strict=True):
            within = numbers <= mark
            line.scatter_reduce_(0, rows[within], distances[within], "amin")
        return best

    @classmethod
    def from_trial(cls, trial: Trial, indices: Tensor) -> "AttackResult":
        """Read the result off a finished trial."""
        ledger = trial.ledger
        success = ledger.success.cpu()
        empty = (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))
        events = [torch.cat(column) for column in zip(*ledger.events, strict=True)] if ledger.events else empty
        targets = trial.goal.targets
        if targets is not None:  # a label stands where no answer told the target
            targets = torch.where(targets == trial.goal.labels, -1, targets)
        return cls(
            indices=indices.cpu(),
            labels=trial.goal.labels.cpu(),
            targets=None if targets is None else targets.cpu(),
            images=trial.images.cpu(),
            adversarial=ledger.best.cpu(),
            success=success,
            queries=ledger.queries.cpu(),
            queries_to_success=ledger.first.cpu(),
            distance=ledger.best_distance.cpu(),
            predicted=torch.where(success, ledger.best_label.cpu(), trial.predicted.cpu()),
            seconds=torch.tensor(trial.seconds),
            reason=list(trial.reasons),
            events=(events[0], events[1], events[2]),
            tallies={name: counts.cpu() for name, counts in ledger.tallies.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence["AttackResult"]) -> "AttackResult":
        """Join the results of consecutive slices of one batch."""
        if len(parts) == 1:
            return parts[0]
        starts = torch.tensor([0, *(len(p) for p in parts)]).cumsum(0)
        tensors = {
            name: torch.cat([getattr(p, name) for p in parts])
            for name in (
                "indices",
                "labels",
                "images",
                "adversarial",
                "success",
                "queries",
                "queries_to_success",
                "distance",
                "predicted",
                "seconds",
            )
        }
        names = dict.fromkeys(name for p in parts for name in p.tallies)  # a slice may have had nothing to count
        rows = torch.cat([p.events[0] + start for p, start in zip(parts, starts, strict=False)])
        return cls(
            **tensors,
            targets=None
            if parts[0].targets is None
            else torch.cat([p.targets for p in parts if p.targets is not None]),
            reason=[reason for p in parts for reason in p.reason],
            events=(rows, torch.cat([p.events[1] for p in parts]), torch.cat([p.events[2] for p in parts])),
            tallies={
                name: torch.cat([p.tallies.get(name, torch.zeros_like(p.queries)) for p in parts]) for name in names
            },
        )
