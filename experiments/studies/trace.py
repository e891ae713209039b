"""Figs. 4(e) and 9 and Table 1 of ZO-L2L: what an optimizer does to one coordinate and to an image, where it looks.

Shapes: B images, n of them that the victim gets right, T iterations, M that are shown, d coordinates, C x H x W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import Victim
from cli import plain_messages
from experiments.reconstructions import image_text
from experiments.studies.optimizer_study import RuleCLI
from experiments.studies.problem_rows import DIRECTIONS, POINTS
from experiments.studies.study import StudyTask
from zeroth.optimizers import ZOSGD, ZOAdam
from zeroth.optimizers.zeroth_order import Step, ZerothOrder
from zeroth.oracles import ScoreOracle
from zeroth.oracles.streams import derived_seed
from zeroth.problems import AttackProblems, minimize

EXAMPLES = """\
Trace an optimizer on attacks of some images (Ruan et al. 2020): predicted variance, estimate and update of the
coordinate that ends farthest from its start, with the updates that ZO-SGD and ZO-ADAM would make of the same estimates
(Fig. 4(e)); the final perturbation beside the mean predicted variance of all pixels (Fig. 9); and images after
iterations from 0 to the last with the labels that the victim gives them, one query each (Table 1).

examples:
  python -m experiments.studies.trace --checkpoint best.ckpt --rule ZOSGD --rule.delta 4 --rule.estimator RGE \\
    --rule.estimator.q 20 --rule.estimator.mu 1e-5 --rule.estimator.distribution gaussian --images.count 5
"""
VARIANCE, PERTURBATION = "mean predicted variance", "final perturbation"
SHOWN = 8  # points of a trajectory, its ends among them


class Recorder:
    """Looks on at trajectories and keeps what is shown of all coordinates.

    Args:
        rules: name -> a rule whose updates are made of the same estimates.
        count: n.
        dimension: d.
        device: where the problems live.

    Attributes:
        lines: name -> (n, d) of each iteration so far: the predicted variance, if there is one, the estimate, the
            update and those of ``rules``.
    """

    def __init__(self, rules: Mapping[str, ZerothOrder], count: int, dimension: int, device: torch.device) -> None:
        self.rules, self.lines = rules, dict[str, list[Tensor]]()
        self.states = {name: rule.begin(count, dimension, device) for name, rule in rules.items()}

    def __call__(self, theta: Tensor, step: Step) -> None:
        """Keep an iteration."""
        told = {"gradient estimate": step.gradient, "update": step.update}
        if step.sigma is not None:
            told = {"predicted variance": step.sigma.square(), **told}
        number = len(self.lines.get("update", []))
        for name, rule in self.rules.items():
            told[f"update by {name}"] = rule.move(step.gradient, self.states[name], iteration=number)
        for name, values in told.items():
            self.lines.setdefault(name, []).append(values)


class Snapshots:
    """Looks on at trajectories and asks for the labels of their images after some iterations.

    Args:
        problems: the attacks of n images.
        marks: iterations.

    Attributes:
        images: (n, d) after each mark so far.
        labels: (n,) likewise.
    """

    def __init__(self, problems: AttackProblems, marks: Sequence[int]) -> None:
        self.problems, self.marks, self.iteration = problems, marks, 0
        self.images, self.labels = list[Tensor](), list[Tensor]()

    def __call__(self, theta: Tensor) -> None:
        """Look at the points (n, d) after one more iteration, or before the first."""
        if self.iteration in self.marks:
            images = self.problems.images_of(theta, torch.arange(len(theta)))
            self.images.append(images.flatten(1))
            self.labels.append(self.problems.oracle(images).argmax(1))
        self.iteration += 1


class TraceTask(StudyTask):
    """Runs an optimizer once on the attacks of batches of images, those that the victim gets right.

    Args:
        victim: images (N, C, H, W) in [0, 1] -> scores (N, K).
        rule: the optimizer; put into eval mode.
        iterations: T.
        c: weight of the distortion, l_1; paper .1 for MNIST.
        options: of :class:`StudyTask`.

    Raises:
        ValueError: iterations are below 1.
    """

    def __init__(self, victim: Victim, rule: ZerothOrder, *, iterations: int, c: float, **options: Any) -> None:
        super().__init__(victim, **options)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.rule, self.iterations, self.c = rule.eval(), iterations, c

    def marks(self) -> list[int]:
        """Return the iterations after which images are shown, (M,): from 0 to T, as even as can be."""
        return sorted({round(mark) for mark in np.linspace(0, self.iterations, SHOWN)})

    def measure(self, oracle: ScoreOracle, images: Tensor, labels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Maps (n, d) and lines (n, T) of the n images, with their ``index`` (n, 1) and ``original`` pixels (n, d).

        ``iterates`` (n, M, d) are the images after the iterations of :meth:`marks`, ``predicted`` (n, M) their labels.
        Starting points and directions are those of the first trial of the study of optimizers.
        """
        right = (oracle(images).argmax(1) == labels).nonzero()[:, 0].cpu()
        if len(right) == 0:
            return {}
        problems = AttackProblems(
            oracle,
            images[right],
            labels[right],
            indices=indices[right],
            c=self.c,
            seed=derived_seed(self.seed, POINTS, 0),
        )
        estimator = self.rule.estimator
        # Neither asks anything; how long a step is does not show, see scaled().
        rules = {"ZO-SGD": ZOSGD(delta=1, estimator=estimator), "ZO-ADAM": ZOAdam(delta=1, estimator=estimator)}
        recorder = Recorder(rules, problems.count, problems.dimension, problems.device)
        snapshots = Snapshots(problems, self.marks())

        def watch(theta: Tensor, step: Step) -> None:
            recorder(theta, step)
            snapshots(theta)

        curves = minimize(
            self.rule.to(images.device),
            problems,
            torch.arange(problems.count),
            iterations=self.iterations,
            seed=derived_seed(self.seed, DIRECTIONS, 0),
            watch=watch,
        )
        snapshots(curves.theta)
        lines = {name: torch.stack(values, 1) for name, values in recorder.lines.items()}  # (n, T, d)
        final = problems.images_of(curves.theta, torch.arange(problems.count)) - problems.images
        # Images, not theta, are pictured: a coordinate that is clamped away moves nothing.
        farthest = final.flatten(1).abs().argmax(1).view(-1, 1, 1).expand(-1, self.iterations, 1)
        maps = {PERTURBATION: final.flatten(1)}
        if "predicted variance" in lines:
            maps[VARIANCE] = lines["predicted variance"].mean(1)
        return {
            "index": indices[right].unsqueeze(1),
            "original": problems.images.flatten(1),
            "iterates": torch.stack(snapshots.images, 1),
            "predicted": torch.stack(snapshots.labels, 1),
            **maps,
            **{name: values.gather(2, farthest)[..., 0] for name, values in lines.items()},
        }


def scaled(values: np.ndarray) -> np.ndarray:
    """Divide by the largest magnitude along the last axis; what is zero everywhere stays so."""
    largest = np.abs(values).max(-1, keepdims=True)
    return np.asarray(values / np.where(largest > 0, largest, 1.0), float)


class TraceCLI(RuleCLI):
    """Parses, builds and runs the trace of an optimizer."""

    study = "trace"
    task: TraceTask
    examples = EXAMPLES
    batch_size = 20
    steps = 200
    outcome_keys = ("rule", "iterations", "c")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the optimizer and the attack."""
        super().add_job_arguments(parser)
        parser.add_argument("--c", type=float, default=0.1, help="weight of the distortion")

    def build_task(self, victim: Victim, num_classes: int) -> TraceTask:
        """The optimizer on a batch."""
        config = self.config_init
        return TraceTask(victim, config.rule, iterations=config.iterations, c=config.c, **self.task_options())

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Lines of the first image, maps of all."""
        indices, original, iterates, predicted = (
            values.pop(name) for name in ("index", "original", "iterates", "predicted")
        )
        maps = {name: scaled(values.pop(name)) for name in (PERTURBATION, VARIANCE) if name in values}
        # About gray: a pixel may be made darker too.
        maps[PERTURBATION] = (1 + maps[PERTURBATION]) / 2
        first = int(indices[0, 0])
        return {
            "kind": "lines",
            "x": {"name": "iteration", "values": list(range(self.config.iterations)), "log": False},
            "y": {"name": "share of the line's largest magnitude"},
            "lines": [{"name": name, "values": scaled(told[0]).tolist()} for name, told in values.items()],
            "examples": {
                "index": indices[:, 0].tolist(),
                "shape": list(self.config_init.data.image_shape),
                "original": [image_text(image) for image in original],
                "iterates": {
                    "iterations": self.task.marks(),
                    "images": [[image_text(image) for image in told] for told in iterates],
                    "predicted": predicted.tolist(),
                },
                "maps": {name: [image_text(image) for image in told] for name, told in maps.items()},
            },
            "notes": [
                f"Lines are of the pixel of image {first} that is changed most, each divided by its largest magnitude.",
                "Maps are divided by their largest magnitude, perturbations are shown about gray.",
            ],
        }


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        TraceCLI().run()


if __name__ == "__main__":
    main()
