"""A trial: one batch of images under attack, with a ledger an image.

Shapes: B images of the trial, n rows of a request, Q points a row, N points asked, K classes, C x H x W pixels.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zeroth.oracles.goal import Goal
from zeroth.oracles.journal import Journal
from zeroth.oracles.ledger import Ledger
from zeroth.oracles.oracle import GradientOracle, LabelOracle, Oracle
from zeroth.oracles.rules import Rules
from zeroth.oracles.streams import ImageStreams

Points = Tensor | Callable[[slice], Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]

# A group of rows is made, asked and looked at together: some full batches, so that few are ragged, yet small enough
# to stay in the cache and, with large images, in memory.
GROUP_BATCHES = 8
GROUP_PIXELS = 2**24


class Trial:
    """A batch of images, a per-image budget and a per-image ledger; what attacks ask goes through :meth:`query`.

    The first query of each image is its clean self; its answer is ``start[row]`` (under a GradientOracle also the
    gradient of the margin, ``start_gradient[row]``). Images whose first answer leaves nothing to attack never enter
    play.

    Args:
        oracle: the black box.
        images: (B, C, H, W) in [0, 1], on the oracle's device.
        goal: labels, targets and confidence.
        rules: what the attack asks of the trial.
        budget: (B,) int64, queries an image may spend, >= 1.
        streams: the images' random streams.
        journal: answers of an earlier, killed run, and where new ones go.
        progress: called after each request with (queries spent, rows out of play, successes) of this trial.
    """

    def __init__(
        self,
        oracle: Oracle,
        images: Tensor,
        goal: Goal,
        rules: Rules,
        *,
        budget: Tensor,
        streams: ImageStreams,
        journal: Journal | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.oracle, self.images, self.goal, self.rules = oracle, images, goal, rules
        self.budget, self.streams, self.journal, self.progress = budget, streams, journal, progress
        size, device = len(self.images), self.images.device
        self.ledger = Ledger(self.images, rules.keep_misses)
        self.playing = torch.ones(size, dtype=torch.bool, device=device)
        self.reasons = [""] * size
        self.seconds = [0.0] * size
        self.start_gradient: Tensor | None = None
        self._opened = time.perf_counter()
        rows = torch.arange(size, device=device)
        # The clean image is no candidate: it is looked at here, not entered as an adversarial point at distance 0.
        if isinstance(self.oracle, GradientOracle):
            self.start, self.start_gradient = self._differentiate(self.images, rows, self._first_margin, look=False)
        else:
            self.start = self._request(
                lambda part: self.images[part].unsqueeze(1), 1, rows, torch.ones_like(rows), look=False, lazy=True
            )[:, 0]
        self._check_labels()
        self.goal = self.goal.settled(self.start)
        asked = self.ledger.queries > 0
        predicted = self.start if self.start.ndim == 1 else self.start.nan_to_num(nan=-torch.inf).argmax(1)
        self.predicted = torch.where(asked, predicted, -1)
        if not self.rules.keep_misses:
            out, reason = self.goal.out_of_play(self.predicted)
            self.retire(rows[out & asked], reason)
        self._settle(rows)

    @property
    def active(self) -> Tensor:
        """(n,) rows still in play, ascending."""
        return self.playing.nonzero().flatten()

    def remaining(self, rows: Tensor) -> Tensor:
        """(n,) queries each row can still afford."""
        return self.budget[rows] - self.ledger.queries[rows]

    def keep(self, rows: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Drop the rows that left play, from ``rows`` and from every tensor with one entry a row.

        The tensors themselves come back where none left: copies of all that an attack keeps cost as much as it does.
        """
        kept = self.playing[rows].nonzero().flatten()
        if len(kept) == len(rows):
            return rows, *tensors
        return rows[kept], *(tensor[kept] for tensor in tensors)

    def retire(self, rows: Tensor, reason: str) -> None:
        """Take rows out of play for a reason that is reported; rows already out keep theirs."""
        if len(rows) == 0:
            return
        for row in rows[self.playing[rows]].tolist():
            self.reasons[row] = reason
            self.seconds[row] = time.perf_counter() - self._opened
        self.playing[rows] = False

    def randn(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) standard normal numbers from the rows' own streams."""
        return self.streams.randn(rows, shape)

    def sphere(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw (n, *shape) directions from the rows' own streams, each (shape[1:]) uniform on the unit l_2 sphere."""
        return self.streams.sphere(rows, shape)

    def margin(self, answers: Tensor, rows: Tensor) -> Tensor:
        """Margin of answers (n, ..., K): (n, ...), negative where adversarial."""
        return self.goal.margin(answers, rows)

    def adversarial(
        self, points: Points, rows: Tensor, count: Tensor | int | None = None, *, iterate: bool = True
    ) -> Tensor:
        """Ask points and tell which answers meet the goal, (n, Q) bool; what was not asked does not."""
        answers = self.query(points, rows, count, iterate=iterate)
        flat = answers.reshape(-1, *answers.shape[2:])
        met = self.goal.met(flat, rows.repeat_interleave(answers.shape[1]))
        asked = ~flat.isnan().any(1) if flat.ndim == 2 else flat >= 0
        return (met & asked).reshape(answers.shape[:2])

    def query(self, points: Points, rows: Tensor, count: Tensor | int | None = None, *, iterate: bool = True) -> Tensor:
        """Ask Q points for each row.

        A row that cannot afford its whole request leaves play before anything is asked for it.

        Args:
            points: (n, Q, C, H, W), or a function that makes the points of ``rows[part]`` for a slice ``part`` of the
                request, so that all n x Q points never exist at once. Clamped to [0, 1] before they are asked.
            rows: (n,) distinct rows; those out of play are asked nothing.
            count: (n,) or one number: only the first ``count`` points of a row are asked. Needed when ``points`` is a
                function, whose Q is then its maximum.
            iterate: these points are iterates, which ``accept="iterates"`` looks at; False for probes.

        Returns:
            log-probabilities (n, Q, K), NaN where nothing was asked; or labels (n, Q), -1 where nothing was asked.
        """
        make: Callable[[slice], Tensor]
        if lazy := not isinstance(points, Tensor):
            if count is None:
                raise ValueError("count must be given when points is a function")
            make, width = points, int(torch.as_tensor(count).max()) if len(rows) else 0
        else:
            make, width = points.__getitem__, points.shape[1]
        wanted = (
            torch.full_like(rows, width)
            if count is None
            else torch.as_tensor(count, device=rows.device).expand(len(rows)).clamp(0, width)
        )
        look = iterate or self.rules.accept == "all"
        answers = self._request(make, width, rows, wanted, look=look, lazy=lazy)
        self._settle(rows)
        return answers

    def _request(
        self, make: Callable[[slice], Tensor], width: int, rows: Tensor, wanted: Tensor, *, look: bool, lazy: bool
    ) -> Tensor:
        asked = self._afford(rows, wanted)
        answers: Tensor | None = None
        for part in self._groups(torch.full_like(asked, width) if lazy else asked):
            mask = torch.arange(width, device=rows.device) < asked[part].unsqueeze(1)
            total = int(mask.sum())
            if total == 0:
                continue
            made = make(part)[:, :width]
            flat = self.oracle.prepare(made.flatten(0, 1) if total == mask.numel() else made[mask])
            got = torch.cat(
                [self.oracle.ask(batch, self.journal) for batch in flat.split(self.oracle.batch_size(flat))]
            )
            if answers is None:
                answers = self._blank(len(rows), width, got)
            answers[part][mask] = got
            self._enter(rows[part], mask, flat, got, look)
        return self._blank(len(rows), width, None) if answers is None else answers

    def gradient(
        self, points: Tensor, rows: Tensor, objective: Objective | None = None, *, iterate: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Ask one point a row with the gradient of an objective; one query each, GradientOracle only.

        Args:
            points: (n, C, H, W).
            rows: (n,) distinct rows; those out of play are asked nothing.
            objective: log-probabilities (n, K), rows (n,) -> (n,); default the margin.
            iterate: as in :meth:`query`.

        Returns:
            log-probabilities (n, K) and gradients (n, C, H, W), NaN where nothing was asked.
        """
        look = iterate or self.rules.accept == "all"
        answers, gradients = self._differentiate(points, rows, objective or self.goal.margin, look=look)
        self._settle(rows)
        return answers, gradients

    def _differentiate(
        self, points: Tensor, rows: Tensor, objective: Objective, *, look: bool
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(self.oracle, GradientOracle):
            raise ValueError(f"gradients need a GradientOracle, got {type(self.oracle).__name__}")
        asked = self._afford(rows, torch.ones_like(rows)) > 0
        theirs, flat = self.keep(rows, points)  # who could not be asked has left play
        got: Tensor | None = None
        if len(theirs):
            flat = self.oracle.prepare(flat)
            got, slopes = self.oracle.differentiate(flat, lambda log_p, part: objective(log_p, theirs[part]))
            self._enter(theirs, torch.ones(len(theirs), 1, dtype=torch.bool, device=rows.device), flat, got, look)
            if len(theirs) == len(rows):
                return got, slopes
        answers = self._blank(len(rows), 1, got)[:, 0]
        gradients = torch.full_like(points, torch.nan, dtype=torch.float32, device=self.images.device)
        if got is not None:
            answers[asked], gradients[asked] = got, slopes
        return answers, gradients

    def _first_margin(self, log_probabilities: Tensor, rows: Tensor) -> Tensor:
        self._check_labels()
        return self.goal.margin(log_probabilities, rows)

    def _check_labels(self) -> None:
        """Before the first answer nobody knows the number of classes; from it on labels must be below it."""
        classes = self.oracle.num_classes
        for name, values in (("labels", self.goal.labels), ("targets", self.goal.targets)):
            if classes is not None and values is not None and int(values.max()) >= classes:
                raise ValueError(
                    f"{name} must lie in 0..{classes - 1}, the victim has {classes} classes, got {int(values.max())}"
                )

    def _afford(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Retire rows that cannot pay, by their own budget or by the oracle's cap; return what each row asks, (n,)."""
        poor = wanted > self.remaining(rows)
        self.retire(rows[poor], "budget")
        asked = torch.where(self.playing[rows], wanted, 0)
        if self.oracle.remaining is not None:
            over = asked.cumsum(0) > self.oracle.remaining
            self.retire(rows[over & (asked > 0)], "total_budget")
            asked = torch.where(over, 0, asked)
        return asked

    def _enter(self, rows: Tensor, mask: Tensor, flat: Tensor, answers: Tensor, look: bool) -> None:
        """Count asked points and, if they are looked at, take what is adversarial, allowed and nearer."""
        if look:
            place, column = mask.nonzero(as_tuple=True)
            hits = self.goal.met(answers, rows[place]).nonzero().flatten()
            if len(hits):
                delta = flat[hits] - self.images[rows[place[hits]]]
                inside = self._allowed(delta)
                hits, delta = hits[inside], delta[inside]
                labels = answers[hits] if answers.ndim == 1 else answers[hits].argmax(1)
                self.ledger.improve(rows[place[hits]], column[hits], flat[hits], labels, self.rules.distance(delta))
            if self.rules.keep_misses:
                margins = self.goal.margin(answers, rows[place])
                margins = margins.where(self._allowed(flat - self.images[rows[place]]), torch.inf)
                self.ledger.near(rows[place], flat, margins)
        self.ledger.queries[rows] += mask.sum(1)

    def _allowed(self, delta: Tensor) -> Tensor:
        """(N, C, H, W) -> (N,) bool: perturbations that are some, and inside the ball."""
        changed = delta.flatten(1).any(1)
        return changed if self.rules.ball is None else changed & self.rules.ball.contains(delta)

    def _settle(self, rows: Tensor) -> None:
        """Retire rows that have won or are spent."""
        if self.rules.stop_at_success:
            self.retire(rows[self.ledger.success[rows]], "success")
        self.retire(rows[self.remaining(rows) <= 0], "budget")
        if self.progress is not None:
            self.progress(int(self.ledger.queries.sum()), int((~self.playing).sum()), int(self.ledger.success.sum()))

    def _groups(self, points: Tensor) -> Iterator[slice]:
        """Cut rows that make ``points`` (n,) points each into groups that are made, asked and looked at together."""
        batch = self.oracle.batch_size(self.images)
        most = max(batch, min(GROUP_BATCHES * batch, GROUP_PIXELS // self.images[0].numel()))
        ends, begin = points.cumsum(0).tolist(), 0
        while begin < len(ends):
            before = ends[begin - 1] if begin else 0
            end = max(begin + 1, bisect_right(ends, before + most, lo=begin))
            yield slice(begin, end)
            begin = end

    def _blank(self, rows: int, width: int, like: Tensor | None) -> Tensor:
        if like is not None:
            return like.new_full((rows, width, *like.shape[1:]), torch.nan if like.is_floating_point() else -1)
        labels = isinstance(self.oracle, LabelOracle)
        shape = (rows, width) if labels else (rows, width, self.oracle.num_classes or 2)
        return torch.full(shape, -1 if labels else torch.nan, device=self.images.device)
