"""Figs. 2 to 11 of ZO-L2L: how fast, and how far, an optimizer brings the loss of black-box attacks down.

Shapes: B images, n of them that the victim gets right, T iterations.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import EvaluationTask, Victim
from cli import plain_messages
from datamodules import AttackOptimizees
from experiments.cells import class_name
from experiments.studies.image_rows import ImageRows, Row
from experiments.studies.study import StudyCLI, curve
from experiments.studies.tuning import Tuning, check_tuning, rule_of, tune
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.oracles import Output, ScoreOracle
from zeroth.oracles.streams import derived_seed
from zeroth.problems import AttackProblems, minimize

EXAMPLES = """\
Measure an optimizer on attacks of a victim (Ruan et al. 2020): the loss after each iteration, a mean over trials from
different starting points. Its arguments may be tuned on training problems first. study.json and a row an image go to
runs/study/<name>; a killed study goes on with the images left.

examples:
  python -m experiments.studies.optimization --checkpoint best.ckpt --rule ZOSGD --rule.delta 4 --rule.estimator RGE \\
    --rule.estimator.q 20 --rule.estimator.mu 1e-5 --rule.estimator.distribution gaussian \\
    --tuning.values '{delta: [0.01, 0.1, 1, 10, 100, 1000]}' --tuning.line '[0.2, 0.4, 0.6, 0.8, 2, 4, 6, 8]'
"""
ROWS, TRIALS = "rows.jsonl", "tuning.jsonl"
# What seeds are derived for: the starting points and the directions of a trial, and the directions of a tuning.
POINTS, DIRECTIONS, TUNING = 31, 32, 33


class OptimizationTask(EvaluationTask):
    """Runs an optimizer on the attacks of batches of images, those that the victim gets right.

    An image costs its check, and in each trial what the optimizer asks and the loss at the last point; at all points,
    where the optimizer does not ask there. An image of which a trial diverges is left out.

    Args:
        victim: images (N, C, H, W) in [0, 1] -> scores (N, K).
        rule: the optimizer; put into eval mode.
        iterations: T; paper 200.
        trials: of an image, each from a starting point of its own, the same for all optimizers; paper 10.
        c: weight of the distortion; paper .1 for MNIST.
        distortion: its norm; paper l1.
        form: "clamp" or "tanh", see :class:`~zeroth.problems.AttackProblems`.
        size: (h, w) of the perturbation, scaled up bilinearly; None for the image's own.
        start_scale: standard deviation of the starting points.
        seed: with the dataset index it fixes all random draws of an image.
        output: what the victim's scores are.
        max_batch: most images the victim is asked at once.

    Attributes:
        rows: where rows are kept; None keeps none.
        queries: images that the victim has answered so far.

    Raises:
        ValueError: iterations or trials are below 1.
    """

    def __init__(
        self,
        victim: Victim,
        rule: ZerothOrder,
        *,
        iterations: int = 200,
        trials: int = 10,
        c: float = 0.1,
        distortion: Literal["l1", "l2", "linf"] = "l1",
        form: Literal["clamp", "tanh"] = "clamp",
        size: tuple[int, int] | None = None,
        start_scale: float = 1e-4,
        seed: int = 0,
        output: Output = "logits",
        max_batch: int | None = None,
    ) -> None:
        super().__init__()
        for field, value in (("iterations", iterations), ("trials", trials)):
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        self.victim, self.rule, self.iterations, self.trials = victim, rule.eval(), iterations, trials
        attack = {"c": c, "norm": distortion, "form": form, "size": size, "start_scale": start_scale}
        self.settings: dict[str, Any] = attack
        self.seed, self.output, self.max_batch = seed, output, max_batch
        self.rows: ImageRows | None = None
        self.queries = 0

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Measure a batch with keys image (B, C, H, W), label (B,) and index (B,), unless it has its rows.

        Returns:
            of the n images that the victim gets right, means over trials: ``losses`` (n, T + 1); ``area under the
            loss``, their mean, ``success``, ``iterations to success`` and ``queries to success``, (n, 1), all of them
            where there is none.
        """
        rows = None if self.rows is None else self.rows.of(batch["index"].tolist())
        if rows is None:
            rows = self.measure(batch["image"], batch["label"], batch["index"])
            if self.rows is not None:
                self.rows.append(rows)
        self.queries += sum(row["queries"] for row in rows)
        right = [row for row in rows if "losses" in row]
        if not right:
            return {}
        losses = torch.tensor([row["losses"] for row in right], dtype=torch.float64)
        ends = torch.tensor([[self.iterations if at is None else at for at in row["first"]] for row in right])
        return {
            "losses": losses,
            "area under the loss": losses.mean(1, keepdim=True),
            "success": torch.tensor([[np.mean([at is not None for at in row["first"]])] for row in right]),
            "iterations to success": ends.double().mean(1, keepdim=True),
            "queries to success": (1 + self.asked(batch["image"].shape[1:])[ends]).double().mean(1, keepdim=True),
        }

    def asked(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Return what the optimizer has asked of an image (C, H, W) before each iteration of a trial, (T + 1,)."""
        channels, height, width = shape
        height, width = self.settings["size"] or (height, width)
        each = [self.rule.queries(channels * height * width, number) for number in range(self.iterations)]
        return torch.tensor([0, *each]).cumsum(0)

    def measure(self, images: Tensor, labels: Tensor, indices: Tensor) -> list[Row]:
        """Return a row an image: ``index``, ``label``, ``queries``, and of those that the victim gets right ``losses``.

        Beside these stand ``spread``, their standard deviation over trials, and ``first``, the iteration of the first
        success of each trial, None where there is none. Where trials diverge there is their number, ``diverged``, in
        the place of all three.
        """
        oracle = ScoreOracle(self.victim, output=self.output, max_batch=self.max_batch, device=images.device)
        right = (oracle(images).argmax(1) == labels).nonzero()[:, 0].cpu()
        rows: list[Row] = [
            {"index": index, "label": label, "queries": 1}
            for index, label in zip(indices.tolist(), labels.tolist(), strict=True)
        ]
        if len(right) == 0:
            return rows
        losses, reached, asked = [], [], 0
        for trial in range(self.trials):
            problems = AttackProblems(
                oracle,
                images[right],
                labels[right],
                indices=indices[right],
                seed=derived_seed(self.seed, POINTS, trial),
                **self.settings,
            )
            curves = minimize(
                self.rule.to(images.device),
                problems,
                torch.arange(len(right)),
                iterations=self.iterations,
                seed=derived_seed(self.seed, DIRECTIONS, trial),
            )
            losses.append(curves.losses.cpu())
            reached.append(curves.reached.cpu())  # type: ignore[union-attr]  # attacks have a goal
            asked += problems.queries // len(right)
        values, goals = torch.stack(losses, 1).double(), torch.stack(reached, 1)  # (n, trials, T + 1)
        for place, row in enumerate(right.tolist()):
            rows[row]["queries"] += asked
            if diverged := int((~values[place].isfinite()).any(1).sum()):
                rows[row]["diverged"] = diverged
                continue
            rows[row] |= {
                "losses": values[place].mean(0).tolist(),
                "spread": values[place].std(0, correction=0).tolist(),
                "first": [int(goal.nonzero()[0]) if goal.any() else None for goal in goals[place]],
            }
        return rows


class OptimizationCLI(StudyCLI):
    """Parses, builds and runs the study of an optimizer."""

    study: ClassVar[str] = "optimization"
    examples = EXAMPLES
    batch_size = 50
    batch_help = "a kill loses at most one batch"
    task: OptimizationTask
    outcome_keys = ("rule", "tuning", "iterations", "trials", "c", "distortion", "form", "size", "start_scale")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the optimizer and the attack."""
        parser.add_subclass_arguments(
            ZerothOrder, "rule", required=True, help="class of zeroth.optimizers, e.g. ZOSGD, LearnedOptimizer"
        )
        parser.add_class_arguments(Tuning, "tuning")
        add = parser.add_argument
        add("--iterations", type=int, default=200, help="of a trial")
        add("--trials", type=int, default=10, help="of an image, each from a point of its own")
        add("--c", type=float, default=0.1, help="weight of the distortion")
        add("--distortion", type=Literal["l1", "l2", "linf"], default="l1", help="norm of the distortion")
        add("--form", type=Literal["clamp", "tanh"], default="clamp", help="how a perturbation is kept in [0, 1]")
        add("--size", type=tuple[int, int] | None, default=None, help="(h, w) of the perturbation, scaled up")
        add("--start_scale", type=float, default=1e-4, help="standard deviation of the starting points")

    def build_task(self, victim: Victim, num_classes: int) -> OptimizationTask:
        """The optimizer on a batch."""
        config = self.config_init
        check_tuning(config.tuning, self.resolved["rule"])
        names = (*self.outcome_keys[2:], "seed", "max_batch")
        return OptimizationTask(
            victim, config.rule, output=self.victim_options.output, **{name: config[name] for name in names}
        )

    def method_name(self) -> str:
        """The study and the class of the optimizer."""
        return f"{self.study}-{class_name(self.config.rule.class_path)}"

    def run(self) -> None:
        """Make the trials of the tuning that are not made yet, then measure the images that have no row yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trials = ImageRows(self.folder / TRIALS, self.settings)
        self.chosen: dict[str, Any] = {}
        if self.config_init.tuning.values and not (self.folder / "study.json").is_file():
            self.chosen = self._tune()
            self.task.rule = rule_of(self.resolved["rule"], self.chosen).eval()
        self.task.rows = ImageRows(self.folder / ROWS, self.settings)
        super().run()

    def _tune(self) -> dict[str, Any]:
        """Choose the rule's arguments on training problems."""
        config, device = self.config_init, self.trainer.strategy.root_device
        attack = {name: config[name] for name in ("c", "form", "size", "start_scale", "max_batch")}
        data = AttackOptimizees(
            config.data,
            self.task.victim,
            norm=config.distortion,
            output=self.victim_options.output,
            train=config.tuning.problems,
            val=1,
            **attack,
        )
        data.prepare_data()
        return tune(
            config.tuning,
            self.resolved["rule"],
            data.problems("train", device),
            self.trials,
            iterations=config.iterations,
            seed=derived_seed(config.seed, TUNING),
        )

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Average the losses over the images, with intervals."""
        config = self.config_init
        losses = values.pop("losses")
        figures = {"final loss": losses[:, -1:], **values}
        told: dict[str, Any] = {
            "kind": "lines",
            "x": {"name": "iteration", "values": list(range(config.iterations + 1)), "log": False},
            "y": {"name": "loss"},
            "lines": [curve("loss", losses, config.seed)],
            "figures": [curve(name, figure, config.seed) for name, figure in figures.items()],
            "asked": self.task.asked(config.data.image_shape).tolist(),
            "notes": self._notes(),
        }
        if self.chosen:
            told["tuning"] = {
                "problems": config.tuning.problems,
                "chosen": self.chosen,
                "trials": [{key: row[key] for key in ("arguments", "loss", "queries")} for row in self.trials],
            }
        return told

    def _notes(self) -> list[str]:
        """What the figures are of."""
        config = self.config_init
        notes = [
            f"Means over {config.trials} trials an image, which begin at the same points for all optimizers; the area "
            f"is the mean loss over the start and {config.iterations} iterations. A trial that finds no adversarial "
            "image counts with all its iterations and queries."
        ]
        if lost := [row["index"] for row in self.task.rows or () if "diverged" in row]:
            notes.append(f"Left out, because a trial diverged: images {', '.join(map(str, lost))}.")
        if self.chosen:
            asked, names = sum(row["queries"] for row in self.trials), self.chosen.items()
            notes.append(
                f"{', '.join(f'{name} {value}' for name, value in names)}: the least mean loss at the end of "
                f"{len(self.trials)} trials on {config.tuning.problems} training problems, {asked:,} queries beside "
                "those of the study."
            )
        return notes


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        OptimizationCLI().run()


if __name__ == "__main__":
    main()
