"""ZO-NGD on the MNIST victim of Carlini & Wagner: ``python -m benchmarks.attack``.

Random weights and images do, because the goal is out of reach: with a confidence that no answer has, every image spends
its whole budget.
"""

from collections.abc import Sequence

import torch
from jsonargparse import auto_cli

from benchmarks.harness import Job, TimedVictim, device_name, devices, show, sweep
from zeroth.attacks.attack import Attack
from zeroth.attacks.score.zo_ngd import ZONGD
from zeroth.networks.carlini_wagner_cnn import CarliniWagnerCNN
from zeroth.oracles import ScoreOracle

SHAPE = (1, 28, 28)
OUT_OF_REACH = 1e6


def attack_job(attack: Attack, victim: TimedVictim, shape: tuple[int, int, int]) -> Job:
    """Make the job of attacking random images, at least five iterations each."""

    def job(images: int, queries: int) -> None:
        generator = torch.Generator().manual_seed(0)
        clean = torch.rand(images, *shape, generator=generator).to(victim.device)
        with torch.no_grad():
            labels = torch.cat([victim.network(part).argmax(1) for part in clean.split(128)])
        budget = max(queries // images, 5 * (attack.request + 1))
        attack(ScoreOracle(victim), clean, labels, budget=budget, seed=0)

    return job


def main(counts: Sequence[int] = (1, 10, 100, 500, 1000), seconds: float = 8.0) -> None:
    """Print queries a second of ZO-NGD against the victim's plain forward rate, on each device.

    Args:
        counts: numbers of images attacked at once.
        seconds: about how long each is measured.
    """
    attack = ZONGD(samples=20, kappa=OUT_OF_REACH)
    for device in devices():
        torch.manual_seed(0)
        victim = TimedVictim(CarliniWagnerCNN()).to(device)
        costs = sweep(attack_job(attack, victim, SHAPE), victim, SHAPE, counts=counts, seconds=seconds)
        show(f"Attack: ZO-NGD, MNIST C&W victim, {device_name(device)}", costs)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
