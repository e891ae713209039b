"""train.py's command line: fit, then test the best checkpoint; a killed run goes on where it was."""

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import callbacks  # noqa: F401  its class names become known to the parser
import datamodules  # noqa: F401  its class names become known to the parser
import lightning_modules  # noqa: F401  its class names become known to the parser
import zeroth.networks  # noqa: F401  its class names become known to the parser
from callbacks.lineage import Lineage
from cli.checkpoints import checkpoints_in
from cli.folders import JobType, RunOptions, name_in_sweep, refuse_other_settings, result_settings, save_config
from cli.parser import PARSER, ZerothParser
from cli.processes import tie_ranks

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "victim" / "digits.yaml"
EXAMPLES = """\
Train a victim. Without --config, --model or --data: the digits victim, a minute on a laptop.

examples:
  python train.py
  python train.py --config configs/victim/digits.yaml --trainer.max_epochs 3 --run.name short
  python train.py --config configs/victim/digits.yaml --print_config
"""


class TrainCLI(LightningCLI):
    """Parses, builds and names a training run; :meth:`train` runs it.

    Args:
        args: command line words; default: the program's own.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        words = list(sys.argv[1:] if args is None else args)
        if not any(re.match(r"(-c|--config|--model|--data)(=|$)", word) for word in words):
            words = ["--config", str(DEFAULT_CONFIG), *words]
        self.words = words
        super().__init__(
            run=False,
            args=words,
            parser_class=ZerothParser,
            parser_kwargs=PARSER | {"description": EXAMPLES},
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; without LightningCLI's warning about words given twice."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and bookkeeping."""
        parser.add_class_arguments(RunOptions, "run")

    def before_instantiate_classes(self) -> None:
        """Choose the folder, and refuse one that other settings have used, before anything is built."""
        self._dump_config()
        self.options = RunOptions(**self.config_dump["run"])
        self.resolved = {key: value for key, value in self.config_dump.items() if key != "config"}
        self.settings = result_settings(self.resolved)
        name = name_in_sweep(default_name(self.words, self.config_dump["model"]), self.settings)
        self.job = job_of(self.config_dump["model"])
        self.folder = self.options.folder(self.job, name)
        # A training that its budget ended goes on with a larger one by the steps that it would have made.
        refuse_other_settings(self.folder, self.settings, growing=("model.init_args.budget",))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the callbacks and loggers that every run has, unless the config brings its own."""
        tie_ranks()
        configured = self._get(self.config_init, "trainer")
        given: list[Callback] = configured.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        # The box of a defense is a part of the system, that of an optimizer's problems a part of the data.
        held = [self.resolved["model"], self.resolved.get("data")]
        parents = list(dict.fromkeys(checkpoints_in(held)))
        extra: list[Callback] = [Lineage(self.folder, self.job, self.resolved, self.settings, parents)]
        if (
            not any(isinstance(callback, ModelCheckpoint) for callback in given)
            and configured.get("enable_checkpointing") is not False
        ):
            # A system says which figure tells its best weights (a noise-trained victim: noisy accuracy). save_last
            # would write last.ckpt together with a new best only: a killed run would lose the epochs since.
            monitor, mode = getattr(self.model, "monitor", "val_accuracy"), getattr(self.model, "monitor_mode", "max")
            for name, figure in (("best", monitor), ("last", None)):
                extra.append(
                    ModelCheckpoint(
                        self.folder / "checkpoints",
                        filename=name,
                        monitor=figure,
                        mode=mode,
                        enable_version_counter=False,
                    )
                )
        if configured.get("enable_progress_bar") is not False:
            extra.append(RichProgressBar(leave=False))
        if configured.get("logger") in (None, True):
            kwargs["logger"] = self.options.loggers(self.job, self.folder)
        trainer = super().instantiate_trainer(**kwargs, callbacks=[*given, *extra], default_root_dir=self.folder)
        return trainer

    def train(self) -> None:
        """Fit, from last.ckpt where an earlier start left one, then test the best checkpoint.

        Raises:
            FileNotFoundError: images are missing, those of the test split too.
        """
        if self.trainer.is_global_zero:
            if self.datamodule is not None:  # else a tree without test images would be told of after the last epoch
                self.datamodule.prepare_data()
                self.datamodule.setup("test")
            save_config(self.folder, self.resolved)
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.is_file() and self.trainer.is_global_zero:
            print(f"going on from {last}")
        # A system that makes its own training images puts them in the place of the datamodule's.
        own = getattr(self.model, "training_data", None)
        data = self.datamodule if own is None else own(self.datamodule)
        self.trainer.fit(self.model, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
        keeper = self.trainer.checkpoint_callback
        best = keeper.best_model_path or None if isinstance(keeper, ModelCheckpoint) else None
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best)
        if self.trainer.is_global_zero:
            print(f"run folder: {self.folder}")


def default_name(words: Sequence[str], model: dict[str, Any]) -> str:
    """Name a run after the last config file on the command line, else after the model's class."""
    files = [
        re.sub(r"^(-c|--config)=", "", word)
        for place, word in enumerate(words)
        if re.match(r"(-c|--config)=", word) or (place and words[place - 1] in ("-c", "--config"))
    ]
    if files and Path(files[-1]).suffix in (".yaml", ".yml", ".json"):
        stem = Path(files[-1]).stem
        # A saved runs/<job>/<name>/config.yaml names the run that it came from.
        return Path(files[-1]).resolve().parent.name if stem == "config" else stem
    return str(model["class_path"]).rpartition(".")[2].lower()


def job_of(model: Mapping[str, Any]) -> JobType:
    """What a system (class_path, init_args) trains, which names its folder; a victim where its class is silent."""
    module, _, name = str(model["class_path"]).rpartition(".")
    return getattr(getattr(importlib.import_module(module), name), "job", "train-victim")
