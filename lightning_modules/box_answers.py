"""What a black box answers to all images of a split, each asked once, by whichever process it falls to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_modules.hyperparameters import describe
from zeroth.defenses import DenoisedModel
from zeroth.oracles import ImageOracle, Journal, Oracle
from zeroth.oracles.scores import name_of
from zeroth.records.schema import file_sha256


def ask_all(oracle: Oracle, data: Dataset[Any], module: pl.LightningModule) -> Tensor:
    """Ask a box about each image of a split; labels are kept beside the checkpoints, so that a kill loses none.

    Args:
        oracle: the box.
        data: items with an image (C, H, W) and its dataset index.
        module: in training; tells how many processes share the images, and gathers what they were answered.

    Returns:
        (largest dataset index + 1, ...) on the CPU, row i the answer to the image of dataset index i; rows of indices
        that the split does not have are those of no image.

    Raises:
        ValueError: there are fewer images than processes.
    """
    size, ranks = len(data), module.trainer.world_size  # type: ignore[arg-type]
    if size < ranks:
        raise ValueError(f"{ranks} processes share {size} training images: lower trainer.devices, or give them more")
    own = Subset(data, range(module.global_rank, size, ranks))
    step = oracle.batch_size(data[0]["image"].unsqueeze(0))
    asked, indices = [], []
    with kept(oracle, "targets", module, {}) as journal:
        for batch in DataLoader(dataset=own, batch_size=step):
            asked.append(oracle.ask(oracle.prepare(batch["image"]), journal).cpu())
            indices.append(batch["index"])
    answers, keys = torch.cat(asked), torch.cat(indices)
    if ranks > 1:
        # Of different lengths, where the images do not divide evenly: each is asked once.
        answers, keys = (torch.cat(gather_all_tensors(held.to(module.device))).cpu() for held in (answers, keys))
    table = torch.full((int(keys.max()) + 1, *answers.shape[1:]), -1, dtype=answers.dtype)
    table[keys] = answers
    return table


@contextmanager
def kept(oracle: Oracle, name: str, module: pl.LightningModule, settings: dict[str, Any]) -> Iterator[Journal | None]:
    """A journal of labels beside the checkpoints; none without checkpoints, where no run goes on, nor of images.

    Args:
        oracle: whose answers are kept.
        name: of the file.
        module: in training.
        settings: what else decides the questions.
    """
    keeper = module.trainer.checkpoint_callback
    if isinstance(oracle, ImageOracle) or not (isinstance(keeper, ModelCheckpoint) and keeper.dirpath):
        yield None
        return
    rank = f"-{module.global_rank}" if module.trainer.world_size > 1 else ""
    journal = Journal.open(
        Path(keeper.dirpath) / f"{name}{rank}.labels", {**settings, "victim": identity(oracle.model)}
    )
    try:
        yield journal
    finally:
        journal.close()


def identity(box: Any) -> Any:
    """What tells a box from another: its class and arguments, and what is in the file that it was read from."""
    try:
        told = describe(box) if isinstance(box, nn.Module) else name_of(box)
    except TypeError:  # a module that does not keep its arguments
        return name_of(box)
    file = _file_of(box)
    return {**told, "sha256": file_sha256(file)} if file is not None and isinstance(told, dict) else told


def box_file(module: Any) -> str | None:
    """The file of the box behind a defense, which the defense's own checkpoint does not hold; None where there is none.

    Args:
        module: a defense, or any other system.
    """
    defense = getattr(module, "defense", None)
    return _file_of(defense.box) if isinstance(defense, DenoisedModel) else None


def _file_of(box: Any) -> str | None:
    file = getattr(box, "checkpoint", None)
    return file if isinstance(file, str) else None
