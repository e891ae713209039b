"""ZOO: zeroth-order coordinate descent on the Carlini-Wagner loss (Chen et al., AISec 2017; thesis chapter 3).

Shapes: B images, n active rows, Q coordinates a row, P pixels that a coordinate moves, K classes, D = C H W pixels.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.constant_search import ConstantSearch, check_search
from zeroth.attacks.losses import hinge
from zeroth.attacks.score.attack_space import AttackSpace, draw_coordinates
from zeroth.attacks.score.coordinate_solvers import CoordinateSolver, Solver
from zeroth.attacks.score.coordinate_variables import Variable, distortion, to_pixels, to_variable
from zeroth.oracles import Oracle, ScoreOracle, Trial

# Two probes, and the iterate that they lead to.
LEAST = 3


class ZOO(Attack):
    r"""Minimise the squared distance plus c times the hinge on log-probabilities, a few coordinates at a time.

    .. math:: \min_y \|x(y) - x_0\|_2^2 + c \max(m(x(y)), -\kappa)

    m is the difference of log-probabilities of eqs. 10 and 11; x(y) = x_0 + D(y) with pixels projected into [0, 1]
    ("box"), or the tanh of a sum likewise ("tanh"); D the identity, or the bilinear upscaling of a smaller space
    (eq. 14). An iteration draws coordinates of y, asks x(y + h e_i) and x(y - h e_i) of each, moves them by their
    differences (eqs. 12 and 13, :class:`CoordinateSolver`), and asks the new iterate: 257 queries for 128 coordinates.
    c is searched as C&W do it, by each image for itself.

    Only the hinge is measured; the derivatives of the distortion are known, and float32 would lose a change of h^2 in
    them. What is left is rounding: a log-probability of -8 to -16 is exact to :math:`\epsilon = 2^{-21}`, and a margin
    of one such and one near 0 to twice that. A first difference is therefore off by up to :math:`4 \epsilon / 2h`, .01
    at h = 1e-4, and a second by up to :math:`8 \epsilon / h^2`, 380: where the victim bends less than that, the paper's
    second difference is noise in float32. Pixels are rounded too, which changes a difference by 3e-4 of itself, and
    the victim rounds. A larger h is cleaner. A probe beyond the box is clamped; the first difference is then taken
    over the way that is left, and the curvature is that of the distortion alone, as in tanh space in the first
    iteration of a search: the answer that it begins with is the clean image's, which tanh misses by 2.5e-7 a pixel.

    The defaults are ours, for as near an image as C&W's: set on MNIST training images at 250,000 queries (mean distance
    1.02 of C&W's on 6 of them). A tuning at 10,000 queries (40 trials) chose ones that win 8 images of 10 there, where
    those by hand win all. ``configs/attack/zoo_paper.yaml`` has the paper's.

    Args:
        variable: "box" (paper on MNIST) or "tanh" (paper elsewhere). Spaces smaller than the image are not projected:
            what is asked is clamped, and what lies beyond the box counts as distortion.
        solver: "adam", "newton", or "newton_adam": Adam where the loss is concave, Newton elsewhere.
        h: half the distance of a coordinate's two probes, pixels or units of tanh space; paper 1e-4.
        coordinates: moved an iteration, fewer where there are not so many; paper 128.
        constant: the first c; paper .01, or 10 without a search on ImageNet. Ten times as much after each search that
            fails, until one works; then the middle between the largest c that failed and the smallest that worked.
        searches: c's tried; None for as many as the budget allows; paper 9, or 1 on ImageNet.
        iterations: of one search; paper 3,000 (MNIST), 1,000 (CIFAR-10), 1,500 and 20,000 (ImageNet).
        learning_rate: eta; paper .01, .002 on ImageNet.
        decay: multiply eta by sqrt(1 - k / iterations) at iteration k of a search, as EAD does; paper False. Few
            iterations need a large eta, about whose size the pixels go on to swing else.
        patience: end a search whose loss has not fallen over so many iterations; None never; paper 100. A search is
            looked at at even distances, so it is a little longer where it does not divide ``iterations``.
        reset_adam: forget Adam's moments at the first success of a search (paper on ImageNet).
        spaces: sides of the spaces of y, one after the other, each at most the image's; None for the pixels; paper
            [32] and [32, 64, 128] on ImageNet.
        schedule: iterations of a search at which the next space begins, one fewer than spaces; paper [2000, 10000].
        importance: from the second space on, draw coordinates by how much their region has changed (paper on
            ImageNet), anew each iteration; else all alike.
        kappa: confidence of an adversarial point, as a difference of log-probabilities; paper 0.
        accept: "all" asked points count, or only "iterates" (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    norm = "l2"
    stop_at_success: ClassVar[bool] = False
    # Probes are made as they are asked; an image holds y, Adam's three numbers a coordinate and z in float64.
    request = 8

    def __init__(
        self,
        *,
        variable: Variable = "box",
        solver: Solver = "adam",
        h: float = 1e-2,
        coordinates: int = 128,
        constant: float = 1.0,
        searches: int | None = None,
        iterations: int = 200,
        learning_rate: float = 0.05,
        decay: bool = True,
        patience: int | None = None,
        reset_adam: bool = False,
        spaces: list[int] | None = None,
        schedule: list[int] | None = None,
        importance: bool = False,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        check_search(
            initial=constant, iterations=iterations, searches=searches, learning_rate=learning_rate, kappa=kappa
        )
        for field, value, choices in (
            ("variable", variable, get_args(Variable)),
            ("solver", solver, get_args(Solver)),
            ("accept", accept, ("all", "iterates")),
        ):
            if value not in choices:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        if not 0 < h <= 0.5:
            raise ValueError(f"h must lie in (0, .5], so that one probe at least stays in [0, 1], got {h}")
        for field, number in (
            ("coordinates", coordinates),
            ("patience", patience),
            *(("spaces", s) for s in spaces or []),
        ):
            if number is not None and number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        _check_schedule(spaces, schedule, importance)
        self.variable: Variable = variable
        self.solver: Solver = solver
        self.h, self.coordinates, self.constant, self.searches = h, coordinates, constant, searches
        self.iterations, self.learning_rate, self.decay, self.patience = iterations, learning_rate, decay, patience
        self.reset_adam, self.spaces, self.schedule, self.importance = reset_adam, spaces, schedule, importance
        self.kappa, self.accept = kappa, accept

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        _Descent(self, trial).run()


class _Descent:
    """Where each image of a trial stands: its c, its space, y, and the hinge at its iterate."""

    def __init__(self, attack: ZOO, trial: Trial) -> None:
        self.attack, self.trial, self.hinge = attack, trial, hinge(trial, attack.kappa)
        size, shape, device = len(trial.images), trial.images.shape[1:], trial.images.device
        self.shape = (shape[0], shape[1], shape[2])
        self.clean = trial.images.flatten(1)
        self.spaces = [AttackSpace(side, self.shape, device) for side in attack.spaces or (None,)]
        self.ends = torch.tensor(attack.schedule or [], dtype=torch.int64, device=device)
        self.search = ConstantSearch(
            size,
            initial=attack.constant,
            iterations=attack.iterations,
            searches=attack.searches,
            windows=0 if attack.patience is None else attack.iterations // attack.patience,
            device=device,
        )
        most = max(space.size for space in self.spaces)
        self.solver = CoordinateSolver(
            attack.solver, learning_rate=attack.learning_rate, size=size, coordinates=most, device=device
        )
        self.level = torch.zeros(size, dtype=torch.int64, device=device)  # which space each is in
        self.y = torch.zeros(size, most, device=device)  # a smaller space has the first of them
        self.start = self.hinge(trial.start.unsqueeze(1), torch.arange(size, device=device))[:, 0]
        self.value = self.start.clone()

    def run(self) -> None:
        """Go on until no image is in play."""
        while len(rows := self.trial.active):
            for level, space in enumerate(self.spaces):
                self.trial.retire(rows[self.trial.remaining(rows) < LEAST], "budget")
                (rows,) = self.trial.keep(rows)
                if len(here := rows[self.level[rows] == level]):
                    self.iterate(here, space)

    def iterate(self, rows: Tensor, space: AttackSpace) -> None:
        """Move coordinates of rows (n,), all in one space, and ask where they lead to."""
        trial, variable = self.trial, self.attack.variable
        pairs = ((trial.remaining(rows) - 1) // 2).clamp_max(min(self.attack.coordinates, space.size))
        coordinates = self.draw(rows, space)[:, : int(pairs.max())]
        answers = trial.query(self.probes(rows, space, coordinates), rows, 2 * pairs, iterate=False)
        rows, answers, coordinates, pairs = trial.keep(rows, answers, coordinates, pairs)
        if len(rows) == 0:
            return
        known = torch.arange(coordinates.shape[1], device=rows.device) < pairs.unsqueeze(1)
        gradient, curvature = self.derivatives(
            rows, space, coordinates, self.hinge(answers, rows).unflatten(1, (-1, 2))
        )
        change = self.solver.move(rows, coordinates, gradient.float(), curvature.float(), known)
        if self.attack.decay:
            change = change * (1 - self.search.iteration[rows] / self.attack.iterations).sqrt().unsqueeze(1)
        y = self.y[rows, : space.size].scatter_add(1, coordinates, change)
        if space.whole and variable == "box":  # the projection
            y = y.clamp(-self.clean[rows], 1 - self.clean[rows])
        self.y[rows, : space.size] = y
        self.enlarge(rows, space)
        self.ask(rows)

    def draw(self, rows: Tensor, space: AttackSpace) -> Tensor:
        """Return coordinates (n, Q), distinct in each row."""
        number = min(self.attack.coordinates, space.size)
        uniform = self.trial.streams.rand(rows, (space.size,))
        by_region = self.attack.importance and space is not self.spaces[0]
        return draw_coordinates(uniform, number, space.importance(self.y[rows, : space.size]) if by_region else None)

    def position(self, rows: Tensor, space: AttackSpace) -> Tensor:
        """Return z (n, D) of the iterates of rows, all in one space."""
        origin = to_variable(self.clean[rows], self.attack.variable)
        return origin + space.upscale(self.y[rows, : space.size])

    def probes(self, rows: Tensor, space: AttackSpace, coordinates: Tensor) -> Callable[[slice], Tensor]:
        """Return the function that makes the probes of a slice of rows, (n, 2 Q, C, H, W): y + h e_1, y - h e_1, ..."""
        steps = torch.tensor([self.attack.h, -self.attack.h], dtype=torch.float64, device=rows.device)

        def make(part: slice) -> Tensor:
            z = self.position(rows[part], space)
            pixels, weights = space.touched(coordinates[part])  # (n, Q, P)
            size, number, moved = pixels.shape
            before = z.gather(1, pixels.flatten(1)).reshape(size, number, 1, moved)
            after = to_pixels(before + steps[:, None] * weights.unsqueeze(2), self.attack.variable).float()
            points = to_pixels(z, self.attack.variable).float().repeat_interleave(2 * number, 0)
            points.scatter_(1, pixels.repeat_interleave(2, 1).flatten(0, 1), after.flatten(0, 2))
            return points.reshape(size, 2 * number, *self.shape)

        return make

    def derivatives(
        self, rows: Tensor, space: AttackSpace, coordinates: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the first and second derivatives (n, Q) of the loss by coordinates, given their probes' hinges.

        Args:
            rows: (n,), all in one space.
            space: theirs.
            coordinates: (n, Q).
            values: (n, Q, 2) hinges at y + h e_i and y - h e_i.
        """
        h, variable = self.attack.h, self.attack.variable
        pixels, weights = space.touched(coordinates)
        z = self.position(rows, space)
        _, slope, bend = distortion(z, self.clean[rows], variable)
        known_slope = (_pick(slope, pixels) * weights).sum(2)  # the adjoint of D, at these coordinates
        known_bend = (_pick(bend, pixels) * weights.square()).sum(2)
        up, down = values.double().unbind(2)
        way = torch.full_like(up, 2 * h)
        if variable == "box":  # how far apart the clamped probes lie along e_i
            before = _pick(z, pixels)
            apart = (before + h * weights).clamp(0, 1) - (before - h * weights).clamp(0, 1)
            way = ((apart * weights).sum(2) / weights.square().sum(2)).clamp_min(h)
        second = (up - 2 * self.value[rows].double().unsqueeze(1) + down) / h**2
        second = torch.where(way > 1.999 * h, second, 0)
        if variable == "tanh":  # a search begins with the clean image's answer, which is not quite that of y = 0
            second = torch.where(self.search.iteration[rows].unsqueeze(1) > 0, second, 0)
        constant = self.search.constant[rows].unsqueeze(1)
        return known_slope + constant * (up - down) / way, known_bend + constant * second

    def enlarge(self, rows: Tensor, space: AttackSpace) -> None:
        """Bring y of those rows of one space whose next is due into it."""
        level = self.spaces.index(space)
        if level + 1 == len(self.spaces):
            return
        due = rows[self.search.iteration[rows] + 1 >= self.ends[level]]
        larger = self.spaces[level + 1]
        self.y[due, : larger.size] = space.enlarge(self.y[due, : space.size], larger)
        self.level[due] += 1
        self.solver.reset(due)

    def ask(self, rows: Tensor) -> None:
        """Ask the iterates of rows (n,), and go to the next c where a search ends."""
        trial, clean = self.trial, self.clean[rows]
        z = torch.empty_like(clean, dtype=torch.float64)
        for level in self.level[rows].unique().tolist():
            here = self.level[rows] == level
            z[here] = self.position(rows[here], self.spaces[level])
        points = to_pixels(z, self.attack.variable).float().reshape(-1, 1, *self.shape)
        answers = trial.query(points, rows)
        lengths = distortion(z, clean, self.attack.variable)[0].float()
        rows, answers, lengths = trial.keep(rows, answers, lengths)
        self.value[rows] = self.hinge(answers, rows)[:, 0]
        won = trial.goal.met(answers[:, 0], rows)
        if self.attack.reset_adam:
            self.solver.reset(rows[won & ~self.search.worked[rows]])
        over = self.search.enter(rows, lengths + self.search.constant[rows] * self.value[rows], won)
        self.y[over], self.level[over], self.value[over] = 0, 0, self.start[over]
        self.solver.reset(over)
        trial.retire(rows[self.search.spent(rows)], "searches")


def _pick(pixelwise: Tensor, pixels: Tensor) -> Tensor:
    """Return values (n, D) at pixels (n, Q, P)."""
    return pixelwise.gather(1, pixels.flatten(1)).reshape(pixels.shape)


def _check_schedule(spaces: list[int] | None, schedule: list[int] | None, importance: bool) -> None:
    spaces, schedule = spaces or [], schedule or []
    if sorted(set(spaces)) != spaces:
        raise ValueError(f"spaces must grow, got {spaces}")
    if len(schedule) != max(0, len(spaces) - 1) or sorted(set(schedule)) != schedule or min(schedule, default=1) < 1:
        raise ValueError(
            f"schedule must be rising iterations, one fewer than spaces: when the next begins, got {schedule} for "
            f"{len(spaces)} spaces"
        )
    if importance and len(spaces) < 2:
        raise ValueError(
            f"importance needs two spaces or more, since the first tells which regions change, got spaces {spaces}"
        )
