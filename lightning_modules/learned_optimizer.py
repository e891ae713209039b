"""Meta-training of a learned zeroth-order optimizer (ZO-L2L, Ruan et al., ICLR 2020, sect. 3.3).

Shapes: n trajectories in play, T iterations of a window, d coordinates.
"""

import warnings
from collections import Counter
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_modules.system import Job, System
from zeroth.meta import TBPTT, MetaGradient, Outcome, Task, Trajectories
from zeroth.meta.schedule import ending, rows_of
from zeroth.networks.checkpoint_rnns import without_files
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Problems, minimize

Trained = Literal["update", "query"]
# What the seed is derived for, beyond the purposes of zeroth.meta.
EVALUATION = 21
FIGURES = ("loss", "area", "objective")


class OptimizerTraining(System):
    r"""An optimizer's network, trained on many problems so that what it reaches is small.

    .. math:: \min_\phi \; E \Big[\sum_{t=1}^{T} t \, f(\theta_t(\phi)) + \lambda \sum_t \|o_t(\phi)\|^2\Big]

    (eq. 4 with the program's regulariser, o being the QueryRNN's outputs; the paper's is :math:`\|\Sigma - I\|^2`). A
    training step is one window of ``slots`` trajectories, which go on in the next step until they have the horizon's
    length; the slots begin at different steps, so that a step sees all ages. A slot takes another problem with each
    trajectory. The UpdateRNN is trained first, beside standard normal directions, then the QueryRNN, beside the frozen
    UpdateRNN of the first training (:class:`~zeroth.networks.CheckpointUpdateRNN`).

    A trajectory that is no longer finite is dropped with its window: the window is taken again without it, a warning
    names its problem, and the slot takes another one. Trajectories in play are in the checkpoint: a training that was
    killed takes the steps that it would have taken, to the bit on a CPU.

    Clip by value as the paper's program: ``trainer.gradient_clip_val: 1.0``, ``gradient_clip_algorithm: value``. Logged
    are train_loss (the weighted mean of the problems' losses in the windows, with the regulariser), queries (so far in
    training and validation, gradients among them, one each), dropped (trajectories); and for the validation and test
    problems val_loss (after the whole horizon; infinite where one diverged), val_area (its mean over the iterations),
    val_objective (with the weights t of eq. 4; the least is the best), val_success where they tell; likewise test_*.

    Args:
        rule: the optimizer, with the network to train: a :class:`~zeroth.optimizers.LearnedOptimizer`, or another rule
            with a QueryRNN (ablation "no update").
        trained: which network of it, "update" or "query"; the other is frozen.
        meta_gradient: :class:`~zeroth.meta.TBPTT` by the problems' true gradients, by CGE (eq. 5) or RGE;
            :class:`~zeroth.meta.PES` or :class:`~zeroth.meta.TruncatedES` by values alone. None for TBPTT by true ones.
        horizon: iterations of a trajectory; paper 200, 500 for its synthetic task.
        window: iterations of a training step; paper 20.
        slots: trajectories in play at a time, in each process; paper's program 1.
        penalty: lambda; paper .005.
        seed: decides the problems' order and all directions.
        optimizer: parameters -> optimizer; paper's program Adam at 1e-3 (update) and 5e-3 (query).
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step.

    Raises:
        ValueError: an argument is out of range, the horizon is no multiple of the window, the rule lacks the network,
            or the data are no problems.
        FloatingPointError: no trajectory of a window is finite.
    """

    job: ClassVar[Job] = "train-optimizer"

    def __init__(
        self,
        rule: ZerothOrder,
        *,
        trained: Trained = "update",
        meta_gradient: MetaGradient | None = None,
        horizon: int = 200,
        window: int = 20,
        slots: int = 10,
        penalty: float = 0.005,
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__(optimizer=optimizer, lr_scheduler=lr_scheduler, lr_interval=lr_interval)
        for name, value in (("window", window), ("slots", slots)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if horizon < 1 or horizon % window:
            raise ValueError(f"horizon must be a multiple of window={window}, got {horizon}")
        if not penalty >= 0:
            raise ValueError(f"penalty must be 0 or more, got {penalty}")
        if rule.has_epochs and slots > 1:
            raise ValueError(f"slots must be 1 with {type(rule).__name__}, whose epochs want one age, got {slots}")
        if trained not in get_args(Trained):
            raise ValueError(f"trained must be one of {', '.join(get_args(Trained))}, got {trained!r}")
        network = getattr(rule, trained, None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"trained={trained!r}, but this {type(rule).__name__} has no such network: give it one")
        self.save_hyperparameters()
        self.rule = rule.requires_grad_(False)
        network.requires_grad_(True)
        self.trained, self.horizon, self.window, self.slots = trained, horizon, window, slots
        self.penalty, self.seed = penalty, seed
        self.meta_gradient = TBPTT() if meta_gradient is None else meta_gradient
        for split in ("val", "test"):
            for figure in (*FIGURES, "success"):
                setattr(self, f"{split}_{figure}", MeanMetric())
        # No buffers: DDP would make all ranks' trajectories those of the first.
        self._problems: dict[str, Problems] = {}
        self._trajectories: Trajectories | None = None
        self._windows = 0  # taken so far
        self._asked_before = 0  # queries of earlier starts
        self.dropped: Counter[int] = Counter()  # trajectories that were not finite, by the index of their problem

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_objective"

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """See :class:`System`."""
        return "min"

    @property
    def queries(self) -> int:
        """Asked of training and validation problems by this process; the first has all those of earlier starts too."""
        return self._asked_before + sum(held.queries for split, held in self._problems.items() if split != "test")

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if not callable(getattr(data, "problems", None)):
            raise ValueError(
                f"data must be problems of an optimizer, such as AttackOptimizees, got {type(data).__name__}"
            )
        self._asked_before = self.queries
        self._problems = {}

    def on_fit_start(self) -> None:
        """Begin a trajectory in each slot, unless a checkpoint has brought those in play."""
        first = self.global_rank * self.slots
        own, problems = torch.arange(first, first + self.slots), self._of("train")
        if self._trajectories is None:
            self._trajectories = self._begin(own, own)
            return
        held, total = self._trajectories, self._total
        if len(held) != total or len(held.copies) != self.meta_gradient.copies:
            raise ValueError(
                f"the checkpoint has {len(held)} trajectories in {len(held.copies)} copies, and slots={self.slots} on "
                f"{self.trainer.world_size} devices with {type(self.meta_gradient).__name__} make {total} in "
                f"{self.meta_gradient.copies}: go on with the settings that it was begun with"
            )
        self._trajectories = held.select(own).to(problems.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert self._trajectories is not None  # begun in on_fit_start
        outcome, taken, before = self._take_window(self._trajectories)
        weights = (self._task.times(taken) + 1).sum() / len(taken)
        self.log("train_loss", outcome.loss.detach() / weights, prog_bar=True, batch_size=len(taken))
        self.watch(outcome.loss, {"index": self._of("train").indices[taken.rows]}, batch_idx)
        self._windows += 1
        self._trajectories = self._go_on(before, outcome.after)
        return outcome.loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        for name, count in (("queries", self.queries), ("dropped", self.dropped.total())):
            self.log(name, float(count), sync_dist=True, reduce_fx="sum")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:  # which would spend queries on nothing
            self._evaluate(batch["index"], "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch["index"], "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        settings = dict(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])
        # Rebuilt without the files that its networks once came from: their weights are here.
        if isinstance(told := settings.get("rule"), dict):
            networks = {part: getattr(self.rule, part, None) for part in get_args(Trained)}
            settings["rule"] = {**told, "init_args": {**told["init_args"], **without_files(networks)}}
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = settings
        if self._trajectories is not None:
            held: Any = self._trajectories.plain()
            books = [(self.queries, self.dropped)]
            if self.trainer.world_size > 1:  # called on all ranks, of which the first writes
                held = self.all_gather(move_data_to_device(held, self.device))
                held = apply_to_collection(held, Tensor, lambda tensor: tensor.flatten(0, 1).cpu())
                books *= self.trainer.world_size
                torch.distributed.all_gather_object(books, books[0])
            checkpoint["optimizer_training"] = {
                "trajectories": held,
                "windows": self._windows,
                "queries": sum(queries for queries, _ in books),
                "dropped": dict(sum((dropped for _, dropped in books), Counter[int]())),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if held := checkpoint.get("optimizer_training"):
            self._trajectories = Trajectories.of_plain(held["trajectories"])
            self._windows = held["windows"]
            if self.global_rank == 0:  # they are of all processes, over which they will be summed again
                self._asked_before, self.dropped = held["queries"], Counter(held["dropped"])

    @property
    def _total(self) -> int:
        """Slots of all processes."""
        return self.slots * self.trainer.world_size

    @property
    def _task(self) -> Task:
        return Task(self.rule, self._of("train"), self.window, self.penalty, self.seed)

    def _of(self, split: str) -> Problems:
        """The problems of a split, made when they are first wanted."""
        if split not in self._problems:
            with torch.inference_mode(False):  # else a victim moved for validation could not be differentiated after
                made = self.trainer.datamodule.problems(split, self.device)  # type: ignore[attr-defined]
            self._problems[split] = made
        return self._problems[split]

    def _begin(self, slots: Tensor, numbers: Tensor) -> Trajectories:
        """Begin trajectories in slots (n,), by numbers (n,) that none has had."""
        problems = self._of("train")
        rows = rows_of(slots, numbers, total=self._total, count=problems.count, seed=self.seed)
        size = sum(parameter.numel() for parameter in self._task.parameters)
        theta = problems.starts(rows, numbers // self._total)
        copies = [
            (theta, self.rule.begin(len(rows), problems.dimension, problems.device))
            for _ in range(self.meta_gradient.copies)
        ]
        return Trajectories(
            slots=slots,
            rows=rows,
            numbers=numbers,
            ages=torch.zeros(len(rows), dtype=torch.int64),
            copies=copies,
            memory=theta.new_zeros(len(rows), size if self.meta_gradient.remembers else 0),
        )

    def _take_window(self, of: Trajectories) -> tuple[Outcome, Trajectories, Trajectories]:
        """Take a window; those that are not finite are dropped, and the others take it again without them.

        Where none is left, all slots begin anew, once. Returned are who took it and those of all slots too.
        """
        whole, begun = of, False
        while True:
            outcome = self.meta_gradient(self._task, of)
            finite = outcome.losses.isfinite().cpu()
            if finite.all():
                return outcome, of, whole
            indices = self._of("train").indices[of.rows[~finite]].tolist()
            self.dropped.update(indices)
            told = f"problems {indices} after {of.ages[~finite].tolist()} to {self.window} more iterations"
            if not finite.any() and begun:
                raise FloatingPointError(
                    f"no trajectory of the window is finite ({told}): lower the learning rate, or look at them"
                )
            warnings.warn(f"dropped {len(indices)} trajectories that are not finite: {told}", stacklevel=2)
            of = of.select(finite.nonzero()[:, 0])
            if not finite.any():
                begun, of = True, self._begin(whole.slots, whole.numbers + self._total)
                whole = of

    def _go_on(self, before: Trajectories, after: Trajectories) -> Trajectories:
        """Begin new trajectories where one has been dropped or has the horizon's length."""
        ends = ending(after.slots, taken=self._windows, windows=self.horizon // self.window, total=self._total)
        kept = after.select((~ends).nonzero()[:, 0])
        new = ~torch.isin(before.slots, kept.slots)
        if not new.any():
            return kept
        begun = self._begin(before.slots[new], before.numbers[new] + self._total)
        return Trajectories.joined([kept, begun])

    def _evaluate(self, rows: Tensor, split: str) -> None:
        """Run problems ``rows`` of a split for the whole horizon, and log what it comes to."""
        problems, seed = self._of(split), derived_seed(self.seed, EVALUATION)
        curves = minimize(self.rule, problems, rows.cpu(), iterations=self.horizon, seed=seed)
        usable = curves.losses[:, 0].isfinite()
        if not usable.all():
            indices = problems.indices[rows.cpu()[~usable.cpu()]].tolist()
            warnings.warn(f"left {split} problems {indices} out: their loss at the start is not finite", stacklevel=2)
        losses = curves.losses.masked_fill(~curves.losses.isfinite(), torch.inf)[usable]
        weights = torch.arange(losses.shape[1], device=losses.device)
        told = {"loss": losses[:, -1], "area": losses.mean(1), "objective": losses @ (weights / weights.sum())}
        if curves.reached is not None:
            told["success"] = curves.reached[usable, -1].float()
        for figure, values in told.items():
            metric = getattr(self, f"{split}_{figure}")
            metric.update(values)
            self.log(f"{split}_{figure}", metric, prog_bar=figure == "loss", batch_size=len(rows))
