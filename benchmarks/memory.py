"""Peak memory of an attack above its victim's own, in processes of their own: ``python -m benchmarks.memory``.

The victims are small random ones: what is measured is what the attack holds beside a forward of one full batch.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.harness import MIB, device_name, devices, peak, reset_peak
from zeroth.attacks.score.zo_ngd import ZONGD
from zeroth.oracles import ScoreOracle


@dataclass(frozen=True)
class Case:
    """An attack by pixel directions, one iteration of it: the clean image, the directions, the new iterate."""

    images: int
    shape: tuple[int, int, int]
    directions: int
    stride: int


CASES = (
    Case(images=1000, shape=(3, 32, 32), directions=50, stride=2),
    Case(images=100, shape=(3, 299, 299), directions=128, stride=8),
)


def measure_case(case: Case, device: str) -> tuple[int, int]:
    """Return peak bytes above the loaded victim: of a plain forward of one full batch, and of the attack."""
    torch.manual_seed(0)
    place = torch.device(device)
    convolution = nn.Conv2d(3, 16, case.stride, case.stride)
    victim = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(place)
    oracle = ScoreOracle(victim)
    images = torch.rand(case.images, *case.shape, device=place)
    labels = oracle(images).argmax(1)
    held = reset_peak(place)
    oracle(torch.rand(oracle.max_batch, *case.shape, device=place))
    forward = peak(place) - held
    held = reset_peak(place)
    attack = ZONGD(samples=case.directions, cells=None, kappa=1e6)
    result = attack(oracle, images, labels, budget=case.directions + 2, seed=0)
    if not bool((result.queries == case.directions + 2).all()):
        raise RuntimeError(f"not every image of {case} spent its budget, so the peak says nothing")
    return forward, peak(place) - held


def measure_apart(case: Case, device: str) -> tuple[int, int]:
    """Run :func:`measure_case` in a fresh process: what an earlier job left to the allocator would hide a peak."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_case, case, device).result()


def main() -> None:
    """Print the peaks of every case on each device."""
    for device in devices():
        table = Table(title=f"Peak memory: ZO-NGD, pixel directions, {device_name(device)}", title_justify="left")
        for column in ("images", "shape", "directions", "forward, MiB", "attack, MiB", "above, MiB"):
            table.add_column(column, justify="right")
        for case in CASES:
            forward, attack = measure_apart(case, device.type)
            row = (forward, attack, attack - forward)
            sizes = (f"{x:.0f}" for x in (value / MIB for value in row))
            table.add_row(str(case.images), "x".join(map(str, case.shape)), str(case.directions), *sizes)
        Console().print(table)


if __name__ == "__main__":
    main()
