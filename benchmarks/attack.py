"""Attacks on the MNIST victim of Carlini & Wagner, ZO-NGD for several batches: ``python -m benchmarks.attack``.

Random weights and images do, because the goal is out of reach: with a confidence that no answer has, every image spends
its whole budget.
"""

from collections.abc import Sequence

import torch
from jsonargparse import auto_cli

from benchmarks.harness import Job, TimedVictim, device_name, devices, show, sweep
from zeroth.attacks import (
    EAD,
    FGM,
    IFGM,
    NESPGD,
    NGD,
    PGD,
    ZONGD,
    ZOO,
    Attack,
    Bandits,
    CarliniWagner,
    Square,
    Thompson,
)
from zeroth.networks.carlini_wagner_cnn import CarliniWagnerCNN
from zeroth.oracles import GradientOracle

SHAPE = (1, 28, 28)
OUT_OF_REACH = 1e6
# By their class defaults. The fast gradient methods end with their grid, which is shorter than a budget.
ATTACKS = (NESPGD, Square, Bandits, Thompson, ZOO, PGD, NGD, FGM, IFGM, CarliniWagner, EAD)


def attack_job(attack: Attack, victim: TimedVictim, shape: tuple[int, int, int], *, least: int = 1) -> Job:
    """Make the job of attacking random images, by ``least`` queries each and five iterations at least."""

    def job(images: int, queries: int) -> None:
        generator = torch.Generator().manual_seed(0)
        clean = torch.rand(images, *shape, generator=generator).to(victim.device)
        with torch.no_grad():
            labels = torch.cat([victim.network(part).argmax(1) for part in clean.split(128)])
        budget = max(queries // images, 5 * (attack.request + 1), least)
        attack(attack.oracle_type(victim), clean, labels, budget=budget, seed=0)

    return job


def main(
    counts: Sequence[int] = (1, 10, 100, 500, 1000), seconds: float = 8.0, images: int = 200, short: float = 3.0
) -> None:
    """Print queries a second against the victim's plain rate, on each device: ZO-NGD, then all other attacks.

    Args:
        counts: numbers of images that ZO-NGD attacks at once.
        seconds: about how long each of them is measured.
        images: number of images that the other attacks attack.
        short: about how long each of them is measured.
    """
    for device in devices():
        torch.manual_seed(0)
        victim = TimedVictim(CarliniWagnerCNN()).to(device)
        job = attack_job(ZONGD(samples=20, kappa=OUT_OF_REACH), victim, SHAPE)
        costs = sweep([(job, count) for count in counts], victim, SHAPE, seconds=seconds)
        show(f"Attack: ZO-NGD, MNIST C&W victim, {device_name(device)}", costs)
        costs = sweep(
            [(attack_job(kind(kappa=OUT_OF_REACH), victim, SHAPE), images) for kind in ATTACKS],
            victim,
            SHAPE,
            seconds=short,
            gradient=any(issubclass(kind.oracle_type, GradientOracle) for kind in ATTACKS),
        )
        title = f"Attacks by their defaults, MNIST C&W victim, {device_name(device)}"
        show(title, costs, [kind.__name__ for kind in ATTACKS])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
