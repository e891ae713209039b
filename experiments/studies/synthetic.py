"""Fig. 3(a) of ZO-L2L: how fast, and how far, an optimizer brings the loss of synthetic problems down.

Shapes: B problems of the test split, T iterations.
"""

from typing import Any, ClassVar

import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor

from callbacks.tasks import Victim
from cli import plain_messages
from cli.folders import RunOptions, result_settings
from datamodules.optimizees import SyntheticOptimizees
from experiments.cells import class_name
from experiments.studies.image_rows import Row
from experiments.studies.optimizer_study import OptimizerCLI, OptimizerTask
from experiments.studies.problem_rows import problem_rows
from experiments.studies.tuning import check_tuning
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.problems import Problems

EXAMPLES = """\
Measure an optimizer on the synthetic problems of a test split (Ruan et al. 2020, sect. 4.2): the loss after each
iteration, a mean over trials from different starting points. Its arguments may be tuned on the training split first.
study.json and a row a problem go to runs/study/<name>; a killed study goes on with the batches left.

examples:
  python -m experiments.studies.synthetic --data ClassificationOptimizees --rule ZOSGD --rule.delta 4 \\
    --rule.estimator RGE --rule.estimator.q 20 --rule.estimator.mu 1e-5 --rule.estimator.distribution gaussian \\
    --tuning.values '{delta: [0.01, 0.1, 1, 10, 100, 1000]}' --tuning.problems 90
"""


class SyntheticTask(OptimizerTask):
    """Runs an optimizer on batches of synthetic problems.

    A problem costs in each trial what the optimizer asks and the loss over all of its data at each point; at the last
    point alone, where the optimizer asks for all other losses itself.

    Args:
        data: whose test problems are measured.
        rule: the optimizer; put into eval mode.
        iterations: T; paper 500.
        trials: of a problem, each with a starting point and minibatches of its own, the same for all optimizers.
        seed: with a problem's number it fixes all its random draws.
    """

    def __init__(
        self, data: SyntheticOptimizees, rule: ZerothOrder, *, iterations: int = 500, trials: int = 10, seed: int = 0
    ) -> None:
        super().__init__(rule, iterations=iterations, trials=trials, seed=seed)
        self.data = data

    def dimension_of(self, batch: dict[str, Tensor]) -> int:
        """Return d."""
        return int(self.data.settings["dimension"])

    def measure(self, batch: dict[str, Tensor]) -> list[Row]:
        """Measure a batch with key index (B,), places in the test split."""
        rows, device = batch["index"], batch["index"].device
        told = problem_rows(
            self.rule.to(device),
            lambda seed: self.data.problems("test", device, seed=seed),
            rows.cpu(),
            iterations=self.iterations,
            trials=self.trials,
            seed=self.seed,
        )
        return [{"index": index} | row for index, row in zip(rows.tolist(), told, strict=True)]


class SyntheticCLI(OptimizerCLI):
    """Parses, builds and runs the study of an optimizer on synthetic problems: it has neither victim nor images."""

    study: ClassVar[str] = "synthetic"
    unit = "problems"
    nothing = "a trial of each of the problems diverged: nothing is left to measure"
    examples = EXAMPLES
    steps = 500
    ends = "A loss is over all data of a problem, of which the optimizer may see a minibatch an iteration."
    task: SyntheticTask
    outcome_keys = ("rule", "tuning", "iterations", "trials")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what all jobs take."""
        parser.add_argument(
            "--seed", type=int, default=0, help="with a problem's number it fixes all random draws of the problem"
        )
        parser.add_class_arguments(RunOptions, "run")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; there is no victim that would tell the problems."""
        self.config = parser.parse_args(args)
        if self.config.get("data") is None:
            raise ValueError("give the problems by --data, e.g. --data ClassificationOptimizees")

    def build(self) -> None:
        """Build the task.

        Raises:
            ValueError: the data are no synthetic problems, too few of them to tune on, or a value to try is refused.
        """
        config, data = self.config_init, self.config_init.data
        if not isinstance(data, SyntheticOptimizees):
            raise ValueError(
                f"data must be synthetic problems, e.g. ClassificationOptimizees, got {type(data).__name__}: attacks "
                "on images have the study optimization"
            )
        if config.tuning.values and config.tuning.problems > data.sizes["train"]:
            raise ValueError(
                f"tuning.problems must be at most data.train, {data.sizes['train']}, got {config.tuning.problems}"
            )
        check_tuning(config.tuning, self.resolved["rule"])
        self.task = self.build_task()

    def build_task(self, victim: Victim | None = None, num_classes: int = 0) -> SyntheticTask:
        """The optimizer on a batch; nobody is asked but the problems."""
        config = self.config_init
        options = {name: config[name] for name in ("iterations", "trials", "seed")}
        return SyntheticTask(config.data, config.rule, **options)

    def victim_name(self) -> str:
        """The class of the problems, in its place."""
        return class_name(self.config.data.class_path)

    def outcome_settings(self) -> dict[str, Any]:
        """Everything that decides the rows."""
        return result_settings({key: self.resolved[key] for key in ("data", "seed", *self.outcome_keys)})

    def parents(self) -> list[dict[str, Any]]:
        """None: the optimizer's own networks are told beside these."""
        return []

    def training_problems(self, device: torch.device) -> Problems:
        """Those of the training split, on which networks are trained too."""
        return self.task.data.problems("train", device)

    def dimension(self) -> int:
        """See :class:`OptimizerCLI`."""
        return int(self.task.data.settings["dimension"])

    def source(self) -> SyntheticOptimizees:
        """See :class:`StudyCLI`."""
        return self.task.data


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        SyntheticCLI().run()


if __name__ == "__main__":
    main()
