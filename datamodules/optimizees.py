"""Problems that optimizers are meta-trained, chosen and tested on: those of the three splits are apart.

Shapes: B problems of a split.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.image_datamodule import Split
from zeroth.oracles import GradientOracle, ImageStreams, Output
from zeroth.oracles.forms import Form
from zeroth.oracles.goal import Norm
from zeroth.oracles.scores import classes_of
from zeroth.problems import AttackProblems, BinaryClassification, Problems, Quadratics


class Optimizees(pl.LightningDataModule):
    """Problems of a kind; a subclass makes them. Loaders give rows of :meth:`problems`, and training windows.

    Args:
        train: problems that are trained on.
        val: problems by which the best checkpoint is chosen.
        test: problems that are reported on.
        windows: training steps of an epoch, over all processes.
        batch_size: validation or test problems that run together.

    Raises:
        ValueError: an argument is below 1.
    """

    def __init__(self, *, train: int, val: int, test: int, windows: int, batch_size: int) -> None:
        super().__init__()
        for name, value in (
            ("train", train), ("val", val), ("test", test), ("windows", windows), ("batch_size", batch_size)
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.sizes: dict[str, int] = {"train": train, "val": val, "test": test}
        self.windows, self.batch_size = windows, batch_size

    @abstractmethod
    def problems(self, split: Split, device: torch.device | str = "cpu") -> Problems:
        """Make the problems of a split; the same at every call."""

    def train_dataloader(self) -> DataLoader[Any]:
        # What a step trains on is the trajectories in play, which outlive an epoch: a batch is a window's turn alone.
        return self._loader(self.windows, 1)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.sizes["val"], self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.sizes["test"], self.batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _loader(self, count: int, batch_size: int) -> DataLoader[Any]:
        rows: Any = [{"index": row} for row in range(count)]
        # The generator is for the seed that a loader draws each time, else from everybody's.
        return DataLoader(dataset=rows, batch_size=batch_size, generator=torch.Generator().manual_seed(0))

    def numbers(self, split: Split) -> range:
        """Numbers of a split's problems among all of its kind."""
        names = get_args(Split)
        first = sum(self.sizes[name] for name in names[: names.index(split)])
        return range(first, first + self.sizes[split])


class SyntheticOptimizees(Optimizees):
    """Problems of random data, which ask no victim.

    Args:
        settings: of the problems; dimension, start_scale and seed among them.
        train, val, test, windows, batch_size: as in :class:`Optimizees`.
    """

    kind: ClassVar[type[Quadratics] | type[BinaryClassification]]

    def __init__(self, settings: dict[str, Any], **sizes: int) -> None:
        super().__init__(**sizes)
        self.settings = settings

    def problems(self, split: Split, device: torch.device | str = "cpu", *, seed: int | None = None) -> Problems:
        """See :class:`Optimizees`; another seed gives the same problems other starting points and minibatches."""
        settings = self.settings if seed is None else {**self.settings, "seed": seed}
        return self.kind(self.numbers(split), **settings, device=device)


class QuadraticOptimizees(SyntheticOptimizees):
    """Random least squares, :class:`~zeroth.problems.Quadratics`, for tests.

    Args:
        dimension: d.
        start_scale: standard deviation of the starting points.
        seed: decides the starting points.
        train, val, test, windows, batch_size: as in :class:`Optimizees`.
    """

    kind = Quadratics

    def __init__(
        self,
        *,
        dimension: int = 10,
        start_scale: float = 1.0,
        seed: int = 0,
        train: int = 20,
        val: int = 10,
        test: int = 10,
        windows: int = 50,
        batch_size: int = 100,
    ) -> None:
        settings = {"dimension": dimension, "start_scale": start_scale, "seed": seed}
        super().__init__(settings, train=train, val=val, test=test, windows=windows, batch_size=batch_size)


class ClassificationOptimizees(SyntheticOptimizees):
    """Synthetic binary classifications, :class:`~zeroth.problems.BinaryClassification` (ZO-L2L, sect. 4.2).

    Args:
        dimension: d; paper 100.
        samples: of each problem's data; paper 2,000.
        minibatch: samples that an iteration sees; paper 64.
        start_scale: standard deviation of the starting points.
        seed: decides starting points and minibatches.
        train, val, test, windows, batch_size: as in :class:`Optimizees`; paper 90 and 10 problems, none to choose by.
    """

    kind = BinaryClassification

    def __init__(
        self,
        *,
        dimension: int = 100,
        samples: int = 2000,
        minibatch: int = 64,
        start_scale: float = 1.0,
        seed: int = 0,
        train: int = 90,
        val: int = 10,
        test: int = 10,
        windows: int = 100,
        batch_size: int = 100,
    ) -> None:
        settings = {
            "dimension": dimension,
            "samples": samples,
            "minibatch": minibatch,
            "start_scale": start_scale,
            "seed": seed,
        }
        super().__init__(settings, train=train, val=val, test=test, windows=windows, batch_size=batch_size)


class AttackOptimizees(Optimizees):
    """Attacks on a victim, :class:`~zeroth.problems.AttackProblems`, one for each image that it classifies right.

    Training and validation problems come from the datamodule's validation split, which the victim has not been trained
    on, test problems from its test split, so that attacks are reported on images that nothing was trained on. (The
    paper takes training and test problems from the test set.) Images are taken in an order that the seed decides; the
    victim is asked about as many as are needed, which counts as queries of the problems.

    Args:
        data: datamodule of images with ``dataset(split)``: of the victim's kind, with the seed of the victim's split.
        victim: images in [0, 1] -> scores (N, K), e.g. a CheckpointClassifier; put into eval mode.
        form: "clamp" (the paper's program) or "tanh" (its text).
        c: weight of the distortion; paper .1 for MNIST, .25 for CIFAR-10.
        norm: of the distortion; paper "l1".
        size: (h, w) of theta, scaled up bilinearly; None for the image's own.
        start_scale: standard deviation of the starting points; the paper's program 1e-4.
        max_batch: largest batch the victim is asked at once; None for the oracle's.
        output: what the victim's scores are.
        seed: decides which images are taken, and the starting points.
        train, val, test, windows, batch_size: as in :class:`Optimizees`; paper 100 and 100, none to choose by.

    Raises:
        ValueError: an argument is out of range, or the victim classifies too few images right (when they are wanted).
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        victim: nn.Module,
        *,
        form: Form = "clamp",
        c: float = 0.1,
        norm: Norm = "l1",
        size: tuple[int, int] | None = None,
        start_scale: float = 1e-4,
        max_batch: int | None = None,
        output: Output = "logits",
        seed: int = 0,
        train: int = 100,
        val: int = 20,
        test: int = 100,
        windows: int = 100,
        batch_size: int = 100,
    ) -> None:
        super().__init__(train=train, val=val, test=test, windows=windows, batch_size=batch_size)
        self.data: Any = data
        self.victim, self.max_batch, self.output, self.seed = victim.eval(), max_batch, output, seed
        self.settings: dict[str, Any] = {"form": form, "c": c, "norm": norm, "size": size, "start_scale": start_scale}

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        # Training images are not looked at.
        self.data.setup("validate" if stage == "fit" else stage)

    def problems(self, split: Split, device: torch.device | str = "cpu") -> AttackProblems:
        """See :class:`Optimizees`."""
        self.victim.to(device)
        options: dict[str, Any] = {"output": self.output, "max_batch": self.max_batch, "device": device}
        oracle = GradientOracle(self.victim, unreadable="nan", **options)  # one image does not end the others
        images, labels, indices = self._right(oracle, "test" if split == "test" else "val")
        first = self.sizes["train"] if split == "val" else 0
        own = slice(first, first + self.sizes[split])
        problems = AttackProblems(
            oracle, images[own], labels[own], indices=indices[own], seed=self.seed, **self.settings
        )
        problems.queries = oracle.queries
        return problems

    def _right(self, oracle: GradientOracle, source: Literal["val", "test"]) -> tuple[Tensor, Tensor, Tensor]:
        """Images of a source that the victim classifies right, their labels and dataset indices, as many as wanted."""
        wanted = self.sizes["test"] if source == "test" else self.sizes["train"] + self.sizes["val"]
        held = self.data.dataset(source)
        generator = ImageStreams(self.seed, [0]).generator(0)
        order = torch.randperm(len(held), generator=generator).tolist()
        found: list[dict[str, Any]] = []
        for start in range(0, len(order), wanted):
            items = [held[place] for place in order[start : start + wanted]]
            answers = classes_of(oracle(torch.stack([item["image"] for item in items]))).tolist()
            found += [item for item, label in zip(items, answers, strict=True) if label == item["label"]]
            if len(found) >= wanted:
                break
        if len(found) < wanted:
            raise ValueError(
                f"the victim classifies {len(found)} of the {len(held)} images of the {source} split right, and "
                f"{'test' if source == 'test' else 'train and val'} ask for {wanted}: lower them, or change the victim"
            )
        images = torch.stack([item["image"] for item in found])
        labels, indices = (torch.tensor([item[name] for item in found]) for name in ("label", "index"))
        return images, labels, indices
