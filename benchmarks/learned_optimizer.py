"""A learned optimizer against the floor of its queries, in use and in training.

``python -m benchmarks.learned_optimizer``. Random weights, images and labels do: a step asks the same of the victim
whatever it answers.

Shapes: B problems at a time.
"""

import warnings
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.harness import Cost, Job, TimedVictim, device_name, devices, sweep
from datamodules.image_datamodule import Split
from datamodules.optimizees import Optimizees
from lightning_modules import OptimizerTraining
from zeroth.estimators import LearnedSampling
from zeroth.networks import CarliniWagnerCNN, DigitsCNN, LeNet, QueryRNN, UpdateRNN
from zeroth.optimizers import LearnedOptimizer
from zeroth.oracles import GradientOracle
from zeroth.problems import AttackProblems, minimize

# Victim -> its network and (C, H, W).
CASES: dict[str, tuple[type[nn.Module], tuple[int, int, int]]] = {
    "digits": (DigitsCNN, (1, 8, 8)),
    "MNIST, small": (LeNet, (1, 28, 28)),
    "MNIST, C&W": (CarliniWagnerCNN, (1, 28, 28)),
}
Q, WINDOW, HORIZON = 20, 20, 200  # the paper's
COLUMNS = ("job", "B", "problem-steps/s", "queries/s", "floor/s", "x floor", "x B = 1", "outside", "KiB a step")
# What a problem is asked in an iteration: values, and in training the true gradient too.
ASKED = {"evaluation": Q + 1, "UpdateRNN": Q + 2, "QueryRNN": Q + 2}


class RandomAttacks(Optimizees):
    """Attacks on random images, to train on."""

    def __init__(self, victim: TimedVictim, shape: tuple[int, int, int], count: int, windows: int) -> None:
        super().__init__(train=count, val=1, test=1, windows=windows, batch_size=count)
        self.victim, self.shape = victim, shape

    def problems(self, split: Split, device: torch.device | str = "cpu") -> AttackProblems:
        """See :class:`~datamodules.optimizees.Optimizees`."""
        count = self.sizes[split]
        images = torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(0)).to(device)
        oracle = GradientOracle(self.victim, device=device)
        return AttackProblems(oracle, images, torch.zeros(count, dtype=torch.int64))


def optimizer(job: str) -> LearnedOptimizer:
    """Build the paper's networks with random weights; the UpdateRNN is trained without the other."""
    torch.manual_seed(0)
    query = None if job == "UpdateRNN" else QueryRNN()
    return LearnedOptimizer(update=UpdateRNN(), query=query, estimator=LearnedSampling(q=Q, mu=1e-5))


def optimizer_job(name: str, victim: TimedVictim, shape: tuple[int, int, int]) -> Job:
    """Make the job of using both networks, "evaluation", or of training one of them, on B problems."""

    def evaluate(problems: int, queries: int) -> None:
        rule, held = optimizer(name).eval().to(victim.device), RandomAttacks(victim, shape, problems, 1)
        steps = max(1, queries // (problems * ASKED[name]))
        minimize(rule, held.problems("train", victim.device), torch.arange(problems), iterations=steps, seed=0)

    def train(problems: int, queries: int) -> None:
        windows = max(1, queries // (problems * WINDOW * ASKED[name]))
        trained = "update" if name == "UpdateRNN" else "query"
        module = OptimizerTraining(optimizer(name), trained=trained, horizon=HORIZON, window=WINDOW, slots=problems)
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator=victim.device.type,
            devices=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, on loaders of few batches
            trainer.fit(module, RandomAttacks(victim, shape, problems, windows))

    return evaluate if name == "evaluation" else train


def main(counts: Sequence[int] = (1, 10, 32), seconds: float = 10.0, victims: Sequence[str] = tuple(CASES)) -> None:
    """Print what an iteration of a problem costs, in use and in training, on each device.

    Args:
        counts: problems at a time.
        seconds: about how long each is measured; a window of training at least.
        victims: which.

    Raises:
        ValueError: an unknown victim.
    """
    if unknown := sorted(set(victims) - set(CASES)):
        raise ValueError(f"victims must be among {', '.join(CASES)}, got {', '.join(unknown)}")
    for device in devices():
        for name in victims:
            network, shape = CASES[name]
            torch.manual_seed(0)
            victim = TimedVictim(network()).to(device)
            table = Table(title=f"Learned optimizer, {name}, {device_name(device)}", title_justify="left")
            for column in COLUMNS:
                table.add_column(column, justify="left" if column == "job" else "right")
            for job in ASKED:
                one = optimizer_job(job, victim, shape)
                costs = sweep([(one, count) for count in counts], victim, shape, seconds=seconds, gradient=True)
                alone = next((cost for cost in costs if cost.images == 1), None)
                for cost in costs:
                    table.add_row(job, *row_of(job, cost, alone))
            Console().print(table)


def row_of(job: str, cost: Cost, alone: Cost | None) -> list[str]:
    """Return a line of the table: memory is that of a problem's iteration in a window, whose graph training holds.

    Args:
        job: one of ``ASKED``.
        cost: of B problems at a time.
        alone: of one problem at a time, to whose rate it is set in relation; None where that was not measured.
    """
    held = cost.memory / (cost.images * (1 if job == "evaluation" else WINDOW))
    return [
        f"{cost.images:,}",
        f"{cost.rate / ASKED[job]:,.0f}",
        f"{cost.rate:,.0f}",
        f"{cost.floor:,.0f}",
        f"{1 / cost.ratio:.2f}",
        "-" if alone is None else f"{cost.rate / alone.rate:.1f}",
        f"{cost.outside:.0%}",
        f"{held / 1024:,.0f}",
    ]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
