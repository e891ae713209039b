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
from zeroth.attacks import ZONGD, Attack, Bandits, CarliniWagner, Square
from zeroth.oracles import GradientOracle


@dataclass(frozen=True)
class Case:
    """A few iterations of an attack on images of a victim whose first convolution has a stride."""

    attack: str
    images: int
    shape: tuple[int, int, int]
    queries: int
    stride: int


# ZO-NGD by pixel directions: the clean image, the directions, the new iterate.
CASES = (
    Case(attack="ZONGD", images=1000, shape=(3, 32, 32), queries=52, stride=2),
    Case(attack="ZONGD", images=100, shape=(3, 299, 299), queries=130, stride=8),
    Case(attack="Square", images=100, shape=(3, 299, 299), queries=4, stride=8),
    Case(attack="Bandits", images=100, shape=(3, 299, 299), queries=7, stride=8),
    Case(attack="CarliniWagner", images=100, shape=(3, 299, 299), queries=4, stride=8),
)


def build(case: Case) -> Attack:
    """Build a case's attack with a confidence that no point has: every image spends its budget."""
    if case.attack == "ZONGD":
        return ZONGD(samples=case.queries - 2, cells=None, kappa=1e6)
    kinds = {kind.__name__: kind for kind in (Square, Bandits, CarliniWagner)}
    return kinds[case.attack](kappa=1e6)


def measure_case(case: Case, device: str) -> tuple[int, int]:
    """Return peak bytes above the loaded victim: of one full batch (with its backward, if asked), and of the attack."""
    torch.manual_seed(0)
    place = torch.device(device)
    convolution = nn.Conv2d(3, 16, case.stride, case.stride)
    victim = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(place)
    attack = build(case)
    oracle = attack.oracle_type(victim)
    images = torch.rand(case.images, *case.shape, device=place)
    labels = oracle(images).argmax(1)
    held = reset_peak(place)
    batch = torch.rand(oracle.max_batch, *case.shape, device=place)
    if isinstance(oracle, GradientOracle):
        oracle.differentiate(batch, lambda log_probabilities, _: log_probabilities[:, 0])
    else:
        oracle(batch)
    del batch
    forward = peak(place) - held
    held = reset_peak(place)
    result = attack(oracle, images, labels, budget=case.queries, seed=0)
    if not bool((result.queries == case.queries).all()):
        raise RuntimeError(f"not every image of {case} spent its budget, so the peak says nothing")
    return forward, peak(place) - held


def measure_apart(case: Case, device: str) -> tuple[int, int]:
    """Run :func:`measure_case` in a fresh process: what an earlier job left to the allocator would hide a peak."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure_case, case, device).result()


def main() -> None:
    """Print the peaks of every case on each device."""
    for device in devices():
        table = Table(title=f"Peak memory, {device_name(device)}", title_justify="left")
        for column in ("attack", "images", "shape", "queries", "one batch, MiB", "attack, MiB", "above, MiB"):
            table.add_column(column, justify="right")
        for case in CASES:
            forward, attack = measure_apart(case, device.type)
            row = (forward, attack, attack - forward)
            sizes = (f"{x:.0f}" for x in (value / MIB for value in row))
            shape = "x".join(map(str, case.shape))
            table.add_row(case.attack, str(case.images), shape, str(case.queries), *sizes)
        Console().print(table)


if __name__ == "__main__":
    main()
