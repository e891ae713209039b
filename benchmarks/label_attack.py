"""Attacks on labels, several images at once, on an MNIST victim: ``python -m benchmarks.label_attack``.

They come nearer as long as they can ask, so every image spends its whole budget (RayS may have tried all its blocks
before). Most requests follow from the last answer, so few images fill no batch: what that costs is inside the victim.
"""

import time
from collections.abc import Sequence

import torch
from jsonargparse import auto_cli
from rich.console import Console
from torch import Tensor, nn

import zeroth.attacks
from benchmarks.attack import SHAPE, attack_job
from benchmarks.harness import Job, TimedVictim, device_name, devices, show, sweep
from zeroth.attacks import SVMOPT, Attack
from zeroth.networks.carlini_wagner_cnn import CarliniWagnerCNN

FOLDER = "zeroth.attacks.label."
LABEL_ATTACKS = tuple(
    name for name in zeroth.attacks.__all__ if getattr(zeroth.attacks, name).__module__.startswith(FOLDER)
)
# Queries an image at least: with fewer the search for a start would be all that is measured.
LEAST = 500


class Balanced(nn.Module):
    """A network of random weights less its mean scores, which would give all images one class and no boundary."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network.eval()
        images = torch.rand(256, *shape, generator=torch.Generator().manual_seed(1))
        self.mean: Tensor
        with torch.no_grad():
            self.register_buffer("mean", network(images).mean(0))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) - self.mean


class TimedSVMOPT(SVMOPT):
    """SVM-OPT with a clock around its quadratic programmes.

    Attributes:
        seconds: in them so far.
    """

    seconds = 0.0

    def solve(self, u: Tensor, signs: Tensor) -> Tensor:
        """See :class:`SVMOPT`."""
        begin = _now(u)
        solved = super().solve(u, signs)
        self.seconds += _now(u) - begin
        return solved


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def label_job(attack: Attack, victim: TimedVictim, shape: tuple[int, int, int]) -> Job:
    """Make the job of attacking random images; the clock of SVM-OPT's programmes begins with it."""
    inner = attack_job(attack, victim, shape, least=LEAST)

    def job(images: int, queries: int) -> None:
        if isinstance(attack, TimedSVMOPT):
            attack.seconds = 0.0  # sweep has run the job once already, to warm up
        inner(images, queries)

    return job


def main(
    attacks: Sequence[str] = LABEL_ATTACKS, counts: Sequence[int] = (1, 10, 100, 500), seconds: float = 3.0
) -> None:
    """Print queries a second of attacks by their defaults against the victim's plain rate, on each device.

    Args:
        attacks: which.
        counts: numbers of images attacked at once.
        seconds: about how long each is measured; longer where 500 queries an image take longer.

    Raises:
        ValueError: an unknown attack.
    """
    if unknown := sorted(set(attacks) - set(LABEL_ATTACKS)):
        raise ValueError(f"attacks must be among {', '.join(LABEL_ATTACKS)}, got {', '.join(unknown)}")
    for device in devices():
        torch.manual_seed(0)
        victim = TimedVictim(Balanced(CarliniWagnerCNN(), SHAPE)).to(device)
        for name in attacks:
            kind = TimedSVMOPT if name == "SVMOPT" else getattr(zeroth.attacks, name)
            built = [kind() for _ in counts]
            jobs = [(label_job(attack, victim, SHAPE), count) for attack, count in zip(built, counts, strict=True)]
            costs = sweep(jobs, victim, SHAPE, seconds=seconds)
            show(f"{name}, MNIST C&W victim, {device_name(device)}", costs)
            if name == "SVMOPT":
                shares = [f"{x.seconds / cost.seconds:.0%}" for x, cost in zip(built, costs, strict=True)]
                Console().print(f"of the time in SVM-OPT's quadratic programmes: {', '.join(shares)}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
