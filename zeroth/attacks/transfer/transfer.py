"""Transfer: adversarial images of other models, asked of the box (Papernot et al. 2016; Liu et al., ICLR 2017).

Shapes: N images asked, n active rows, M surrogates, K classes, C x H x W pixels.
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from zeroth.attacks.attack import Attack
from zeroth.attacks.whitebox.carlini_wagner import CarliniWagner
from zeroth.oracles import GradientOracle, ImageStreams, LabelOracle, Oracle, Trial, VictimError
from zeroth.oracles.scores import check_declared, check_scores, name_of, to_log_probabilities


class MeanOfSoftmax(nn.Module):
    r"""An ensemble: the logarithm of the mean of its members' probabilities (Liu et al. 2017, eq. 4, equal weights).

    .. math:: \log p(x) = \log \frac{1}{M} \sum_m \text{softmax}(z_m(x))

    Of one member these are its log-probabilities, whose differences are those of its logits.

    Args:
        members: images (N, C, H, W) in [0, 1] -> logits (N, K), each.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._declared = False  # whether the members have been seen to answer logits

    def forward(self, images: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for member in self.members:
            scores = check_scores(_answer(member, images), len(images), parts[0].shape[1] if parts else None, member)
            if not self._declared:
                check_declared(scores.detach(), "logits", member)
            parts.append(to_log_probabilities(scores, "logits"))
        self._declared = True
        return torch.stack(parts).logsumexp(0) - math.log(len(parts))


def _answer(member: nn.Module, images: Tensor) -> Tensor:
    """Ask a surrogate, whose failure tells its own name and not the ensemble's."""
    try:
        return member(images)
    except (torch.OutOfMemoryError, VictimError):  # these tell what to do themselves
        raise
    except RuntimeError as error:
        raise VictimError(
            f"surrogate {name_of(member)} failed on {len(images)} images of shape {tuple(images.shape[1:])}, those of "
            f"the box: {error}; give surrogates for such images"
        ) from error


class Transfer(Attack):
    """Craft an adversarial image on surrogates, by any white-box attack, and ask the box for its label once.

    The box answers two queries an image: the check of the clean image, and the crafted one. What the surrogates answer
    costs nothing of the budget; it is tallied as ``surrogate_queries``, image by image. Norm, distance, radius and
    kappa are the inner attack's: the surer the surrogates, the likelier the box follows. The box is asked about every
    image, as in the thesis: about one that the surrogates get wrong as it is, too, and about the point of least margin
    where the inner attack fools them with none within ``surrogate_budget``. An image that does not fool the box ends as
    "not transferred", or as "budget" where that was its last query; as "not crafted" where ``surrogate_budget`` is too
    small for a point.

    Args:
        surrogates: modules, images in [0, 1] -> logits, which are put into eval mode; several are attacked as the mean
            of their probabilities. In a config ``CheckpointClassifier`` loads one that train.py trained.
        attack: crafts the images; None takes C&W at kappa 20, which is the thesis' kappa.
        surrogate_budget: queries an image may spend on the surrogates, forward and backward of all of them being one;
            the thesis' C&W needs 18,001.

    Raises:
        ValueError: there is no surrogate, the attack asks labels alone, or the budget is below 1.
    """

    oracle_type: ClassVar[type[Oracle]] = LabelOracle

    def __init__(
        self, *, surrogates: list[nn.Module], attack: Attack | None = None, surrogate_budget: int = 1000
    ) -> None:
        if not surrogates:
            raise ValueError("surrogates must name at least one model to craft on, got none")
        if surrogate_budget < 1:
            raise ValueError(f"surrogate_budget must be at least 1 query an image, got {surrogate_budget}")
        self.attack = CarliniWagner(kappa=20.0) if attack is None else attack
        if not issubclass(GradientOracle, self.attack.oracle_type):
            raise ValueError(
                f"attack must work with the surrogates' gradients or scores, got {type(self.attack).__name__}, which "
                f"needs a {self.attack.oracle_type.__name__}: give one such as CarliniWagner, EAD or PGD"
            )
        self.surrogates, self.surrogate_budget = list(surrogates), surrogate_budget
        self.norm, self.epsilon, self.request = self.attack.norm, self.attack.epsilon, self.attack.request
        self._ensemble = MeanOfSoftmax(self.surrogates).eval()

    def distance(self, delta: Tensor) -> Tensor:
        """Return the inner attack's distance of perturbations (N, C, H, W): (N,)."""
        return self.attack.distance(delta)

    @property
    def distance_name(self) -> str:
        """The inner attack's."""
        return self.attack.distance_name

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        rows = trial.active
        if len(rows) == 0:
            return
        oracle = GradientOracle(
            self._ensemble.to(trial.oracle.device),
            output="log_probabilities",
            max_batch=trial.oracle.max_batch,
            device=trial.oracle.device,
        )
        goal = replace(
            trial.goal,
            labels=trial.goal.labels[rows],
            targets=None if trial.goal.targets is None else trial.goal.targets[rows],
            kappa=self.attack.kappa,
        )
        streams = trial.streams
        crafting = Trial(
            oracle,
            trial.images[rows],
            goal,
            replace(self.attack.rules, keep_misses=True),
            budget=torch.full_like(rows, self.surrogate_budget),
            streams=ImageStreams(streams.seed, torch.tensor(streams.keys)[rows.cpu()], trial.oracle.device),
        )
        self.attack.run(crafting)
        ledger = crafting.ledger
        trial.ledger.tally("surrogate_queries", rows, ledger.queries)
        made = ledger.success | ledger.miss_margin.isfinite()
        trial.retire(rows[~made], "not crafted")
        points = ledger.best.where(ledger.success.reshape(-1, 1, 1, 1), ledger.miss)[made]
        trial.query(points.unsqueeze(1), rows[made])
        trial.retire(rows[made], "not transferred")
