"""Attacks on labels of other libraries, as attacks of this one: ``pip install -e ".[peers]"``.

``python attack.py --attack benchmarks.peers.ARTSignOPT`` runs one under the same trial as our own: the same black box,
clamped and counted, the same budget, the nearest of all points that were asked. So records compare image by image.
One image at a time, as ART runs them.

Shapes: N points asked, C x H x W pixels.
"""

import importlib.util
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zeroth.attacks.attack import Attack
from zeroth.oracles import LabelOracle, Oracle, Trial

# More than any budget pays for: it is the budget that ends a peer.
NO_END = 10**9


class SpentError(Exception):
    """A peer has asked its budget; it stops the peer, which knows of no budget, wherever it is."""


class Box(nn.Module):
    """An image's victim as a peer sees it: points (N, C, H, W) -> scores (N, 3), 1 at the class and 0 elsewhere.

    Class 0 stands for the image's own label, 1 for any other. ART takes two classes for a victim of one score, so there
    is a third that is never answered.
    """

    classes = 3

    def __init__(self, trial: Trial, row: Tensor) -> None:
        super().__init__()
        self.trial, self.row = trial, row
        self.eval()

    def forward(self, points: Tensor) -> Tensor:
        """Answer points as far as the budget goes.

        Raises:
            SpentError: it does not go to the last one.
        """
        met = self.trial.adversarial(points.unsqueeze(0), self.row, self.trial.remaining(self.row))[0]
        if len(met) < len(points) or not bool(self.trial.playing[self.row]):
            raise SpentError
        return nn.functional.one_hot(met.long(), self.classes).to(points.dtype)


class Peer(Attack):
    """Base of the peers: untargeted, l_2, with the defaults of their library but for an end of their own."""

    oracle_type: ClassVar[type[Oracle]] = LabelOracle
    stop_at_success: ClassVar[bool] = False
    norm: Literal["linf", "l2", "l1"] = "l2"
    library: ClassVar[str]

    @abstractmethod
    def drive(self, box: Box, image: Tensor) -> None:
        """Run the library's attack on one image (1, C, H, W)."""

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`.

        Raises:
            ValueError: the library is not installed, or the attack is targeted.
        """
        # Here and not where it is built: a table is planned, and a config read, without the peers.
        if importlib.util.find_spec(self.library) is None:
            raise ValueError(
                f'{type(self).__name__} needs the package {self.library}, which is missing: pip install -e ".[peers]"'
            )
        if trial.goal.targets is not None:
            raise ValueError(f"{type(self).__name__} runs untargeted attacks alone: leave out the targets")
        for row in trial.active.unsqueeze(1):
            seed = int(trial.streams.rand(row, (1,)).double() * 2**32)
            with suppress(SpentError), global_draws(seed):
                self.drive(Box(trial, row), trial.images[row])


class ARTSignOPT(Peer):
    """Sign-OPT of the adversarial-robustness-toolbox."""

    library = "art"

    def drive(self, box: Box, image: Tensor) -> None:
        """See :class:`Peer`."""
        from art.attacks.evasion import SignOPTAttack

        attack = SignOPTAttack(art_classifier(box, image), targeted=False, max_iter=NO_END, query_limit=NO_END)
        attack.generate(image.cpu().numpy())


class ARTHopSkipJump(Peer):
    """HopSkipJump of the adversarial-robustness-toolbox."""

    library = "art"

    def drive(self, box: Box, image: Tensor) -> None:
        """See :class:`Peer`."""
        from art.attacks.evasion import HopSkipJump

        attack = HopSkipJump(art_classifier(box, image), targeted=False, max_iter=NO_END, verbose=False)
        attack.generate(image.cpu().numpy())


class FoolboxHopSkipJump(Peer):
    """HopSkipJump of foolbox."""

    library = "foolbox"

    def drive(self, box: Box, image: Tensor) -> None:
        """See :class:`Peer`."""
        from foolbox.attacks import HopSkipJumpAttack

        foolbox_run(HopSkipJumpAttack(steps=NO_END), box, image)


class FoolboxBoundary(Peer):
    """The Boundary Attack of foolbox."""

    library = "foolbox"

    def drive(self, box: Box, image: Tensor) -> None:
        """See :class:`Peer`."""
        from foolbox.attacks import BoundaryAttack

        foolbox_run(BoundaryAttack(steps=NO_END), box, image)


def art_classifier(box: Box, image: Tensor) -> Any:
    """Wrap a box for ART."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        box,
        nn.CrossEntropyLoss(),
        input_shape=tuple(image.shape[1:]),
        nb_classes=box.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if image.is_cuda else "cpu",
    )


def foolbox_run(attack: Any, box: Box, image: Tensor) -> None:
    """Run an attack of foolbox against a box."""
    import foolbox

    model = foolbox.PyTorchModel(box, bounds=(0, 1), device=image.device)
    own = torch.zeros(1, dtype=torch.int64, device=image.device)
    attack.run(model, image, foolbox.criteria.Misclassification(own))


@contextmanager
def global_draws(seed: int) -> Iterator[None]:
    """Seed the global generators of NumPy and torch, from which the peers draw, and put them back afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
