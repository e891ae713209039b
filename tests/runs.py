"""Victims and runs that the tests of the command line and the callbacks share."""

import functools
import os
import signal
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cli import TrainCLI, plain_messages
from zeroth.networks import QueryRNN, UpdateRNN

ROOT = Path(__file__).parents[1]
_KEPT = tempfile.TemporaryDirectory(prefix="zeroth-tests-")  # removed when the test session ends
QUIET = ("--run.wandb", "disabled", "--trainer.enable_progress_bar", "false")


class Counted(nn.Module):
    """Logits of the nearest class mean of the digits, in float64; counts for itself, outside its own process.

    Args:
        log: file that gets one byte for each image answered.
        kill_after: the process kills itself (kill -9) rather than answer more images than that; only where the
            environment has KILL=1, so that the resumed run has the same settings.
    """

    def __init__(self, *, log: str, kill_after: int = 0) -> None:
        super().__init__()
        digits = load_digits()
        flat, labels = torch.tensor(digits.data) / 16, torch.tensor(digits.target)
        means = torch.stack([flat[labels == k].mean(0) for k in range(10)])
        self.register_buffer("weight", 10 * means)
        self.register_buffer("bias", -5 * means.square().sum(1))
        self.log, self.kill_after = Path(log), kill_after

    def forward(self, images: Tensor) -> Tensor:
        count(self.log, len(images), self.kill_after)
        # Image by image: no rounding depends on the batch.
        flat = images.flatten(1).double()
        return torch.stack([(flat * w).sum(1) for w in self.weight], 1) + self.bias


class CountedHalf(nn.Module):
    """Answers images by half of what they are, and counts as :class:`Counted` does."""

    def __init__(self, *, log: str, kill_after: int = 0) -> None:
        super().__init__()
        self.log, self.kill_after = Path(log), kill_after

    def forward(self, images: Tensor) -> Tensor:
        count(self.log, len(images), self.kill_after)
        return images / 2


def count(log: Path, images: int, kill_after: int) -> None:
    """Enter images in the log of a victim, or kill this process; see :class:`Counted`."""
    if os.environ.get("KILL") and asked(log) + images > kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
    with log.open("ab") as file:
        file.write(b"." * images)


def asked(log: Path) -> int:
    """How many images a Counted victim has answered."""
    return log.stat().st_size if log.exists() else 0


def counted(log: Path, kill_after: int = 0) -> list[str]:
    """Options that evaluate a Counted victim on the digits."""
    victim = ["--victim", "tests.runs.Counted", "--victim.init_args.log", str(log)]
    return [
        *victim,
        "--victim.init_args.kill_after",
        str(kill_after),
        "--data",
        "Digits",
        "--run.root",
        str(log.parent),
        *QUIET,
    ]


def surrogates_for(config: Path) -> list[str]:
    """Options that a config leaves to its user: models to craft on; none for most."""
    return ["--attack.surrogates", "[{class_path: DigitsCNN}]"] if config.stem.startswith("transfer") else []


def run(command: type, *words: str | Path) -> object:
    """Run a command in this process, as its script does."""
    with plain_messages():
        cli = command([str(word) for word in words])
        cli.train() if isinstance(cli, TrainCLI) else cli.run()
    return cli


def saved(module: pl.LightningModule, file: Path) -> Path:
    """Write the checkpoint of a module as it is, untrained; returns the file."""
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(file)
    return file


@functools.cache
def optimizer_checkpoint() -> Path:
    """Networks of a learned optimizer, random, whose outputs move and bend the sampling visibly."""
    networks, state = {"update": (UpdateRNN(hidden=4), 0.3), "query": (QueryRNN(hidden=4), 20)}, {}
    generator = torch.Generator().manual_seed(3)
    for name, (network, scale) in networks.items():
        for key, value in network.state_dict().items():
            drawn = torch.rand(value.shape, generator=generator) - 0.5  # as torch's own, for 4 hidden units
            state[f"rule.{name}.{key}"] = drawn * (0.1 * scale if key == "output.weight" else 1)
    file = Path(_KEPT.name) / "optimizer.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {}}, file)
    return file


@functools.cache
def digits_checkpoint() -> Path:
    """A victim of three epochs, trained once a test session by the real command."""
    cli = run(TrainCLI, "--trainer.max_epochs", "3", "--run.root", _KEPT.name, *QUIET)
    return cli.folder / "checkpoints" / "best.ckpt"
