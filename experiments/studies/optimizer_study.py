"""What the studies of optimizers share: the task on batches of problems, the tuning, study.json.

Shapes: B problems, n of them measured, T iterations.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import EvaluationTask
from experiments.cells import class_name
from experiments.studies.image_rows import ImageRows, Row
from experiments.studies.problem_rows import TUNING, averages
from experiments.studies.study import StudyCLI, curve
from experiments.studies.tuning import Tuning, rule_of, tune
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Problems

ROWS, TRIALS = "rows.jsonl", "tuning.jsonl"
# Problems whose own curves study.json tells too.
SINGLE = 4


class OptimizerTask(EvaluationTask):
    """Runs an optimizer on batches of problems, several times each. A problem of which a trial diverges is left out.

    Args:
        rule: the optimizer; put into eval mode.
        iterations: T.
        trials: of a problem, each from a starting point of its own, the same for all optimizers.
        seed: with a problem's index it fixes all its random draws.

    Attributes:
        rows: where rows are kept; None keeps none.
        queries: values that the problems have been asked for so far.

    Raises:
        ValueError: iterations or trials are below 1.
    """

    def __init__(self, rule: ZerothOrder, *, iterations: int, trials: int, seed: int) -> None:
        super().__init__()
        for field, value in (("iterations", iterations), ("trials", trials)):
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        self.rule, self.iterations, self.trials, self.seed = rule.eval(), iterations, trials, seed
        self.rows: ImageRows | None = None
        self.queries = 0

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Measure a batch with key index (B,), unless it has its rows.

        Returns:
            :func:`~experiments.studies.problem_rows.averages` of the n problems that were measured; nothing without.
        """
        rows = None if self.rows is None else self.rows.of(batch["index"].tolist())
        if rows is None:
            rows = self.measure(batch)
            if self.rows is not None:
                self.rows.append(rows)
        self.queries += sum(row["queries"] for row in rows)
        measured = [row for row in rows if "losses" in row]
        return averages(measured, self.asked(self.dimension_of(batch))) if measured else {}

    def asked(self, dimension: int) -> Tensor:
        """Return what the optimizer has asked of a problem of d coordinates before each iteration, (T + 1,)."""
        each = [self.rule.queries(dimension, number) for number in range(self.iterations)]
        return torch.tensor([0, *each]).cumsum(0)

    @abstractmethod
    def measure(self, batch: dict[str, Tensor]) -> list[Row]:
        """Return a row a problem: ``index``, ``queries``, and all else of those that are measured.

        That is what :func:`~experiments.studies.problem_rows.problem_rows` tells.
        """

    @abstractmethod
    def dimension_of(self, batch: dict[str, Tensor]) -> int:
        """Return d of the problems of a batch."""


class RuleCLI(StudyCLI):
    """Parses, builds and runs a study of what an optimizer does.

    Attributes:
        steps: default of T.
    """

    steps: ClassVar[int]

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the optimizer and how long it runs."""
        parser.add_subclass_arguments(
            ZerothOrder, "rule", required=True, help="class of zeroth.optimizers, e.g. ZOSGD, LearnedOptimizer"
        )
        parser.add_argument("--iterations", type=int, default=self.steps, help="of a trial")

    def method_name(self) -> str:
        """The study and the class of the optimizer."""
        return f"{self.study}-{class_name(self.config.rule.class_path)}"


class OptimizerCLI(RuleCLI):
    """Parses, builds and runs a study of how far an optimizer comes, which may be tuned first.

    Attributes:
        ends: what a reader must know of the problems to understand the figures.
    """

    batch_help = "a kill loses at most one batch"
    task: OptimizerTask
    ends: ClassVar[str]

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the optimizer, its tuning and its trials."""
        super().add_job_arguments(parser)
        parser.add_class_arguments(Tuning, "tuning")
        parser.add_argument("--trials", type=int, default=10, help=f"of {self.unit}, each from points of its own")

    def run(self) -> None:
        """Make the trials of the tuning that are not made yet, then measure the problems that have no row yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trials = ImageRows(self.folder / TRIALS, self.settings)
        self.chosen: dict[str, Any] = {}
        if self.config_init.tuning.values and not (self.folder / "study.json").is_file():
            self.chosen = tune(
                self.config_init.tuning,
                self.resolved["rule"],
                self.training_problems(self.trainer.strategy.root_device),
                self.trials,
                iterations=self.config_init.iterations,
                seed=derived_seed(self.config.seed, TUNING),
            )
            self.task.rule = rule_of(self.resolved["rule"], self.chosen).eval()
        self.task.rows = ImageRows(self.folder / ROWS, self.settings)
        super().run()

    @abstractmethod
    def training_problems(self, device: torch.device) -> Problems:
        """Return the problems that the rule's arguments are chosen on, at least as many as the tuning takes."""

    @abstractmethod
    def dimension(self) -> int:
        """Return d."""

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Average the losses over the problems, with intervals."""
        config = self.config_init
        losses, indices = values.pop("losses"), values.pop("index")
        single = [row for row in self.task.rows or () if "losses" in row][:SINGLE]
        figures = {"final loss": losses[:, -1:], **values}
        told: dict[str, Any] = {
            "kind": "lines",
            "x": {"name": "iteration", "values": list(range(config.iterations + 1)), "log": False},
            "y": {"name": "loss"},
            "lines": [curve("loss", losses, config.seed)],
            "summary": [curve(name, figure, config.seed) for name, figure in figures.items()],
            "by_index": {name: column[:, 0].tolist() for name, column in {"index": indices, **figures}.items()},
            "single": {key: [row[key] for row in single] for key in ("index", "losses", "spread")},
            "asked": self.task.asked(self.dimension()).tolist(),
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
        figures = "One trial" if config.trials == 1 else f"Means over {config.trials} trials"
        notes = [
            f"{figures} of each of the {self.unit}, which begin at the same points for all optimizers; "
            f"the area is the mean loss over the start and {config.iterations} iterations. {self.ends}"
        ]
        if lost := [row["index"] for row in self.task.rows or () if "diverged" in row]:
            notes.append(f"Left out, because a trial diverged: {self.unit} {', '.join(map(str, lost))}.")
        if self.chosen:
            asked, names = sum(row["queries"] for row in self.trials), self.chosen.items()
            notes.append(
                f"{', '.join(f'{name} {value}' for name, value in names)}: the least mean loss at the end of "
                f"{len(self.trials)} trials on {config.tuning.problems} training problems, {asked:,} queries beside "
                "those of the study."
            )
        return notes
