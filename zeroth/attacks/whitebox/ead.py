"""EAD: elastic-net attacks by iterated shrinkage (Chen et al., AAAI 2018; thesis eqs. 15-22 and Algorithm 4).

Shapes: B images, n active rows, N perturbations, C x H x W pixels.
"""

from typing import ClassVar, Literal, get_args

from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.constant_search import ConstantSearch, check_search
from zeroth.attacks.losses import hinge
from zeroth.attacks.whitebox.steepest import elastic_net, margin_gradient
from zeroth.oracles import GradientOracle, Oracle, Trial, distance

Method = Literal["fista", "ista"]
Rule = Literal["en", "l1"]
Shrinkage = Literal["beta", "prox"]


def shrink(points: Tensor, clean: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Bring each pixel nearer to its clean value by a threshold, not past it, and into [0, 1] (thesis eq. 18).

    .. math:: S(z) = \arg\min_{u \in [0, 1]} \tfrac{1}{2} (u - z)^2 + \text{threshold} \, |u - x_0|

    Args:
        points: (n, C, H, W) z.
        clean: (n, C, H, W) x_0 in [0, 1].
        threshold: a number or (n, 1, 1, 1), >= 0.
    """
    delta = points - clean
    return (clean + delta.sign() * (delta.abs() - threshold).clamp_min(0)).clamp(0, 1)


class EAD(Attack):
    r"""Minimise squared l_2 plus beta l_1 plus c times the hinge on the margin, c found by a search of each image.

    .. math:: x^{(k+1)} = S(y^{(k)} - \alpha_k \nabla g(y^{(k)})), \qquad
              y^{(k+1)} = x^{(k+1)} + \tfrac{k}{k + 3} (x^{(k+1)} - x^{(k)})
    .. math:: g(x) = c \max(m(x), -\kappa) + \|x - x_0\|_2^2, \qquad \alpha_k = \alpha_0 \sqrt{1 - k / K}

    FISTA asks two points an iteration: the iterate x, and the gradient at the slack y. ISTA, whose slack is x itself,
    asks one. The gradient at the clean image, where every search begins, came with its check. The slack is clamped to
    [0, 1], as whatever is asked; the published program asks it as it is. With beta 0 the loss is that of C&W. The
    defaults are ours, set by hand on MNIST training images (the best of 40 tuning trials reached fewer of them);
    ``configs/attack/ead_paper.yaml`` has the paper's.

    Args:
        beta: weight of l_1, [0, 1] pixels; paper .001.
        rule: which adversarial point is the best: of least elastic-net distortion, l_2^2 + beta l_1 ("en"), or of
            least l_1 ("l1"); the result's ``distance`` is that number.
        shrinkage: shrink by "beta" (paper and program), or by alpha_k beta, the proximal step of the stated loss
            ("prox"). The paper's shrinks as a beta / alpha_k would, and ever more as alpha_k decays.
        method: "fista" (paper) or "ista".
        constant: the first c; paper .001. Ten times as much after each search that fails, until one works; then the
            middle between the largest c that failed and the smallest that worked.
        searches: c's tried; None for as many as the budget allows; paper 9.
        iterations: K, of one search; paper 1,000.
        learning_rate: alpha_0; paper .01.
        abort: end a search whose loss has not fallen over a tenth of its iterations; paper never.
        kappa: confidence of an adversarial point, as a difference of logits; paper 0 to 60.
        accept: "all" asked points count, slacks too, or only "iterates" (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    norm = "l1"
    stop_at_success: ClassVar[bool] = False

    def __init__(
        self,
        *,
        beta: float = 0.001,
        rule: Rule = "en",
        shrinkage: Shrinkage = "beta",
        method: Method = "fista",
        constant: float = 0.1,
        searches: int | None = None,
        iterations: int = 100,
        learning_rate: float = 0.03,
        abort: bool = True,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        check_search(
            initial=constant, iterations=iterations, searches=searches, learning_rate=learning_rate, kappa=kappa
        )
        if beta < 0:
            raise ValueError(f"beta must be >= 0, got {beta}")
        for field, value, choices in (
            ("rule", rule, get_args(Rule)),
            ("shrinkage", shrinkage, get_args(Shrinkage)),
            ("method", method, get_args(Method)),
            ("accept", accept, ("all", "iterates")),
        ):
            if value not in choices:
                raise ValueError(f"{field} must be {choices[0]!r} or {choices[1]!r}, got {value!r}")
        self.beta, self.rule, self.shrinkage, self.method = beta, rule, shrinkage, method
        self.constant, self.searches, self.iterations = constant, searches, iterations
        self.learning_rate, self.abort, self.kappa, self.accept = learning_rate, abort, kappa, accept

    def distance(self, delta: Tensor) -> Tensor:
        """Return what the rule makes small: (N, C, H, W) -> (N,)."""
        return elastic_net(delta, self.beta) if self.rule == "en" else distance(delta, "l1")

    @property
    def distance_name(self) -> str:
        """The rule's."""
        return "elastic-net" if self.rule == "en" else "l1"

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        clean, start, loss = trial.images, margin_gradient(trial), hinge(trial, self.kappa)
        search = ConstantSearch(
            len(clean),
            initial=self.constant,
            iterations=self.iterations,
            searches=self.searches,
            windows=10 if self.abort else 0,
            device=clean.device,
        )
        x, y, gradient = clean.clone(), clean.clone(), start.clone()  # iterate, slack, gradient of the hinge at it

        while len(rows := trial.active):
            constant, k = search.constant[rows], search.iteration[rows].reshape(-1, 1, 1, 1)
            rate = self.learning_rate * (1 - k / self.iterations).sqrt()
            slope = constant.reshape(-1, 1, 1, 1) * gradient[rows] + 2 * (y[rows] - clean[rows])
            threshold = self.beta * rate if self.shrinkage == "prox" else self.beta
            moved = shrink(y[rows] - rate * slope, clean[rows], threshold)
            if self.method == "fista":
                answers = trial.query(moved.unsqueeze(1), rows)[:, 0]
                rows, constant, k, moved, answers = trial.keep(rows, constant, k, moved, answers)
                y[rows] = (moved + k / (k + 3) * (moved - x[rows])).clamp(0, 1)
                _, gradient[rows] = trial.gradient(y[rows], rows, loss, iterate=False)
            else:
                y[rows] = moved
                answers, gradient[rows] = trial.gradient(moved, rows, loss)
            rows, constant, moved, answers = trial.keep(rows, constant, moved, answers)
            x[rows] = moved
            losses = elastic_net(moved - clean[rows], self.beta) + constant * loss(answers, rows)
            over = search.enter(rows, losses, trial.goal.met(answers, rows))
            x[over], y[over], gradient[over] = clean[over], clean[over], start[over]
            trial.retire(rows[search.spent(rows)], "searches")
