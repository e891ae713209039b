"""Fig. A2(a) of ZO-NGD: the loss after a few iterations against the damping gamma of the Fisher matrix.

Shapes: B images, n of them right at first, R directions, X values of gamma, K classes.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import Victim
from cli import plain_messages
from cli.attacking import attack_name
from experiments.studies.study import StudyCLI, StudyTask, curve
from zeroth.attacks import ZONGD, Attack
from zeroth.oracles import Goal, ImageStreams, Rules, ScoreOracle, Trial
from zeroth.oracles.oracle import exact_float32
from zeroth.oracles.trial import Points

EXAMPLES = """\
Measure ZO-NGD's loss after a few iterations against its damping gamma (Zhao et al. 2020, Fig. A2(a)). study.json goes
to runs/study/<name>; with it there, the same command only says so.

examples:
  python -m experiments.studies.damping --checkpoint best.ckpt --attack configs/attack/zo_ngd_paper.yaml
  python -m experiments.studies.damping --checkpoint best.ckpt --attack ZONGD --dampings 0.001 0.01 0.1
"""
DAMPINGS = tuple(float(f"{gamma:.3g}") for gamma in np.logspace(-6, 2, 17))
START = "before the first step"
REPORTED = "a wide range of gamma reduces the loss; 0.01 or 0.001 is an appropriate choice (the figure has no numbers)"


class IterateTrial(Trial):
    """A trial that remembers what the victim said of each row's newest iterate.

    Attributes:
        reached: (B, K) log-probabilities of the newest iterate; of the clean image before the first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reached = self.start.clone()

    def query(self, points: Points, rows: Tensor, count: Tensor | int | None = None, *, iterate: bool = True) -> Tensor:
        """See :class:`Trial`."""
        answers = super().query(points, rows, count, iterate=iterate)
        if iterate:
            self.reached[rows] = answers[:, -1]
        return answers


def variant(attack: ZONGD, **changes: Any) -> ZONGD:
    """Build the attack again with some hyperparameters changed."""
    kept = {name: getattr(attack, name) for name in inspect.signature(type(attack)).parameters}
    return type(attack)(**{**kept, **changes})


def variants(attack: Attack, dampings: Sequence[float]) -> dict[str, list[ZONGD]]:
    """Lay out the study: line -> attacks, one a gamma, or a single one where gamma has no part.

    A natural step at a fixed learning rate lambda is lambda / gamma long in all directions but one, so that gamma sets
    first of all how far it goes. A second line therefore keeps lambda / gamma as the attack has it, and varies the
    damping alone; large gamma turns it into the plain gradient step of that length, the third line. Signs have no
    length: there the first line is the second.

    Raises:
        ValueError: an attack without a Fisher matrix, no gamma, or one that is not positive.
    """
    if not isinstance(attack, ZONGD):
        raise ValueError(f"attack must be ZONGD, whose damping is studied, got {type(attack).__name__}")
    if attack.fisher == "none":
        raise ValueError("attack.fisher is none, so there is nothing to damp: choose another, e.g. outer_product")
    if not dampings:
        raise ValueError("dampings must be one or more values of gamma, got none")
    fixed = [variant(attack, damping=gamma) for gamma in dampings]
    if attack.step == "sign":
        return {"sign of the natural gradient": fixed, "sign of the gradient": [variant(attack, fisher="none")]}
    rate = attack.learning_rate / attack.damping
    return {
        f"natural gradient, lambda = {attack.learning_rate:g}": fixed,
        f"natural gradient, lambda = {rate:g} gamma": [
            variant(attack, damping=gamma, learning_rate=rate * gamma) for gamma in dampings
        ],
        f"gradient, lambda = {rate:g}": [variant(attack, fisher="none", learning_rate=rate)],
    }


def losses_after(
    attack: ZONGD, oracle: ScoreOracle, images: Tensor, labels: Tensor, *, iterations: int, seed: int, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Run an attack for exactly so many iterations and return its loss (eq. 2) before and after, each (n,).

    The attack is the real one on the same draws as ever; only the trial does not end at success, so that an image that
    is adversarial early goes on and counts with the loss it has in the end. Images that the victim gets wrong are asked
    once and left out. Asks B + n iterations (R + 1).

    Args:
        attack: the attack; its own number of iterations does not matter.
        oracle: the victim.
        images: (B, C, H, W) on the oracle's device.
        labels: (B,).
        iterations: at least 1.
        seed: with the indices it fixes the random directions.
        indices: (B,) dataset indices.
    """
    attack = variant(attack, iterations=iterations)
    with torch.no_grad(), exact_float32(oracle.device.type):
        trial = IterateTrial(
            oracle,
            images,
            Goal(labels, kappa=attack.kappa),
            Rules(attack.distance, accept="iterates", stop_at_success=False),
            budget=torch.full_like(labels, 1 + iterations * (attack.request + 1)),
            streams=ImageStreams(seed, indices, oracle.device),
        )
        rows = trial.active
        before = attack.objective(trial, trial.start[rows], rows)
        attack.run(trial)
        return before, attack.objective(trial, trial.reached[rows], rows)


class DampingTask(StudyTask):
    """Runs all attacks of the study on a batch.

    Args:
        victim: callable images (N, C, H, W) in [0, 1] -> scores (N, K).
        lines: line -> attacks, as :func:`variants` lays them out.
        iterations: how many of each.
        options: of :class:`StudyTask`.
    """

    def __init__(self, victim: Victim, lines: dict[str, list[ZONGD]], *, iterations: int, **options: Any) -> None:
        super().__init__(victim, **options)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.lines, self.iterations = lines, iterations

    def measure(self, oracle: ScoreOracle, images: Tensor, labels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Losses of each line, (n, X) or (n, 1), and those before the first step, (n, 1)."""
        found: dict[str, list[Tensor]] = {START: []}
        for name, attacks in self.lines.items():
            found[name] = []
            for attack in attacks:
                before, after = losses_after(
                    attack, oracle, images, labels, iterations=self.iterations, seed=self.seed, indices=indices
                )
                found[name].append(after)
                found[START] = [before]
        return {name: torch.stack(losses, 1) for name, losses in found.items()}


class DampingCLI(StudyCLI):
    """Parses, builds and runs the study of the damping."""

    study = "damping"
    examples = EXAMPLES
    batch_size = 100
    outcome_keys = ("attack", "dampings", "iterations")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the attack and the grid."""
        parser.add_subclass_arguments(
            Attack,
            "attack",
            required=True,
            help="YAML file or class of ZO-NGD, e.g. --attack configs/attack/zo_ngd_paper.yaml",
        )
        parser.add_argument("--dampings", type=float, nargs="+", default=list(DAMPINGS), help="values of gamma")
        parser.add_argument("--iterations", type=int, default=2, help="iterations after which the loss is read")

    def build_task(self, victim: Victim, num_classes: int) -> DampingTask:
        """All attacks of the study."""
        lines = variants(self.config_init.attack, self.config_init.dampings)
        return DampingTask(victim, lines, iterations=self.config_init.iterations, **self.task_options())

    def method_name(self) -> str:
        """The study and the attack's file or class."""
        return f"{self.study}-{attack_name(self.config.attack)}"

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Average the losses over the images; a line without gamma is level."""
        config = self.config_init
        lines = [
            curve(name, np.broadcast_to(losses, (len(losses), len(config.dampings))), config.seed)
            for name, losses in values.items()
        ]
        return {
            "kind": "lines",
            "x": {"name": "damping gamma", "values": config.dampings, "log": True},
            "y": {"name": f"mean loss after {config.iterations} iterations"},
            "lines": lines,
            "reported": REPORTED,
            "notes": [
                "The loss is eq. 2 with its floor at -kappa, which is what the attack descends on.",
                "Every attack has the same images and random directions, and goes on after success.",
            ],
        }


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        DampingCLI().run()


if __name__ == "__main__":
    main()
