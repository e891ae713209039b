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

from lightning_modules.hyperparameters import describe
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
    """
    size, ranks = len(data), module.trainer.world_size  # type: ignore[arg-type]
    # As many a process, so that they can be gathered; the last images of the others stand in for those that lack.
    share = -(-size // ranks)
    places = torch.arange(share) * ranks + module.global_rank
    own = Subset(data, places.clamp_max(size - 1).tolist())
    step = oracle.batch_size(data[0]["image"].unsqueeze(0))
    asked, indices = [], []
    with kept(oracle, "targets", module, {}) as journal:
        for batch in DataLoader(dataset=own, batch_size=step):
            asked.append(oracle.ask(oracle.prepare(batch["image"]), journal).cpu())
            indices.append(batch["index"])
    answers, keys = torch.cat(asked), torch.cat(indices)
    if ranks > 1:
        gathered: Any = module.all_gather((answers.to(module.device), keys.to(module.device)))
        answers, keys = (held.flatten(0, 1).cpu() for held in gathered)
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
    file = getattr(box, "checkpoint", None)
    return {**told, "sha256": file_sha256(file)} if isinstance(file, str) and isinstance(told, dict) else told
