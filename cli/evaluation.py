"""The command lines that put a victim, images and a task together."""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

import callbacks  # noqa: F401  its class names become known to the parser
import datamodules  # noqa: F401  its class names become known to the parser
from callbacks.lineage import parent_of
from callbacks.selection import EvaluationData, Selection
from callbacks.tasks import EvaluationTask
from cli.folders import JobType, RunOptions, name_in_sweep, refuse_other_settings, result_settings
from cli.parser import PARSER, ZerothParser
from cli.processes import EndWhenTerminated, tie_ranks
from cli.victims import VictimOptions, build_victim, load_checkpoint
from lightning_modules.box_answers import box_file
from lightning_modules.classifier import check_fit
from zeroth.attacks import Attack
from zeroth.records.schema import file_sha256

# Ranks run free until they meet at the end; torch's 30 minutes would kill the rank that waits.
PATIENCE = timedelta(days=30)
# The Trainer's options that an evaluation has a use for.
MACHINE = (
    "accelerator", "devices", "num_nodes", "strategy", "plugins", "callbacks", "logger", "enable_progress_bar",
    "deterministic", "benchmark", "profiler",
)  # fmt: skip


class EvaluationCLI(LightningCLI, ABC):
    """Parses and builds an evaluation: a victim, the selected images, a task; what :meth:`run` does is the job's own.

    Args:
        args: command line words; default: the program's own.

    Attributes:
        job: the folder of its runs.
        examples: head of --help.
        batch_size: default of the option.
        batch_help: what else its help says.
        outcome_keys: options of the job that decide the rows.
        growing: those of them that may change when a run goes on.
        module: what the checkpoint holds; None without one.
    """

    job: ClassVar[JobType]
    examples: ClassVar[str]
    batch_size: ClassVar[int]
    batch_help: ClassVar[str]
    outcome_keys: ClassVar[tuple[str, ...]]
    growing: ClassVar[tuple[str, ...]] = ()
    module: LightningModule | None = None

    def __init__(self, args: Sequence[str] | None = None) -> None:
        # Which devices there are and that predict has no callbacks of its own says nothing about an evaluation.
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        super().__init__(
            LightningModule,
            LightningDataModule,
            run=False,
            args=list(sys.argv[1:] if args is None else args),
            parser_class=ZerothParser,
            parser_kwargs=PARSER | {"description": self.examples},
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; the images are those that the victim was trained for unless --data says otherwise."""
        self.config = parser.parse_args(args)
        checkpoint, victim = self.config.checkpoint, self.config.victim
        if checkpoint is None and victim.name is None:
            raise ValueError("give a victim: either --checkpoint FILE of train.py, or --victim NAME (see --help)")
        for field in ("name", "weights", "init_args", "state_dict"):
            if checkpoint is not None and victim[field]:
                raise ValueError(
                    f"--checkpoint {checkpoint} brings the whole victim, so victim.{field} {victim[field]!r} would not "
                    "be used: leave out one of the two"
                )
        if checkpoint is not None:
            self.module, data = load_checkpoint(checkpoint)
            if self.config.get("data") is None and data is not None:
                self.config = parser.parse_object({"data": data}, self.config)
        if self.config.get("data") is None:
            raise ValueError(
                "give the images by --data, e.g. --data Digits or --data configs/data/mnist.yaml: "
                "the victim does not tell them"
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what both jobs take."""
        parser.add_argument(
            "--checkpoint",
            type=str | None,
            default=None,
            help="Lightning checkpoint of train.py: network, hyperparameters and data come from it",
        )
        parser.add_class_arguments(VictimOptions, "victim")
        parser.add_class_arguments(Selection, "images")
        parser.add_argument(
            "--batch_size",
            type=int,
            default=self.batch_size,
            help=f"images worked on together; {self.batch_help}",
        )
        parser.add_argument(
            "--max_batch",
            type=int | None,
            default=None,
            help="most images the victim is asked at once; default 128 on CPU, 4,096 on a GPU",
        )
        parser.add_argument(
            "--seed", type=int, default=0, help="with an image's dataset index it fixes all random draws of the image"
        )
        parser.add_class_arguments(RunOptions, "run")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the images, the job's options and the machine; the model comes from the checkpoint or --victim."""
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
        self.add_job_arguments(parser)
        # The rest of the Trainer's options is for training.
        skip = {name for name in signature(Trainer).parameters if name not in MACHINE}
        parser.add_class_arguments(
            Trainer, "trainer", instantiate=False, sub_configs=True, fail_untyped=False, skip=skip
        )
        parser.set_defaults({"trainer.devices": 1})

    def _set_seed(self) -> None:
        """Nothing: each image has its own stream, keyed by --seed."""

    def _add_instantiators(self) -> None:
        """Nothing: an evaluation writes no checkpoints."""

    def instantiate_classes(self) -> None:
        """Build all that is needed and the trainer, refusing a folder that other settings have used."""
        self._dump_config()
        self.resolved = {key: value for key, value in self.config_dump.items() if key != "config"}
        self.options = RunOptions(**self.resolved["run"])
        self.config_init = self.parser.instantiate(self.config)
        self.build()
        self.settings = self.outcome_settings()
        name = name_in_sweep(f"{self.victim_name()}-{self.method_name()}", self.settings)
        self.folder = self.options.folder(self.job, name)
        self.resolved["run"]["name"] = self.folder.name  # so that config.yaml, fed back, means this run
        refuse_other_settings(self.folder, self.settings, growing=self.growing)
        self.trainer = self.instantiate_trainer()

    def build(self) -> None:
        """Build victim, task and images."""
        self.victim_options: VictimOptions = self.config_init.victim
        victim = build_victim(self.victim_options, self.config.seed) if self.module is None else self.module
        network, classes = getattr(victim, "network", victim), getattr(victim, "num_classes", None)
        check_fit(network, self.config_init.data, classes)
        check_surrogates(self.config_init.get("attack"), self.config_init.data)
        self.task = self.build_task(victim, self.config_init.data.num_classes)
        self.data = EvaluationData(
            self.config_init.data,
            self.config_init.images,
            shard=self.config_init.get("shard"),
            batch_size=self.config_init.batch_size,
            rows_an_image=self.task.rows_an_image,
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the job's callbacks and the loggers."""
        tie_ranks()
        config = dict(self.config_init.trainer)
        given = config.pop("callbacks") or []
        if config.get("logger") in (None, True):
            config["logger"] = self.options.loggers(self.job, self.folder)
        if config["strategy"] == "ddp" or (config["strategy"] == "auto" and config["devices"] not in (1, "1", "auto")):
            config["strategy"] = DDPStrategy(timeout=PATIENCE)
        if os.environ.get("SLURM_NTASKS") == "1" and config.get("plugins") is None:
            # A SLURM job of one task: Lightning would believe that SLURM starts a process a device, and use one device.
            config["plugins"] = LightningEnvironment()
        config |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        config |= {"inference_mode": False, "use_distributed_sampler": False, "default_root_dir": self.folder}
        given = given if isinstance(given, list) else [given]
        return Trainer(**config, callbacks=[*given, *self.own_callbacks(), EndWhenTerminated()], **kwargs)

    def victim_name(self) -> str:
        """Name the victim by its training run, its file or its class."""
        if self.config.checkpoint is None:
            return str(self.victim_options.name).rpartition(".")[2]
        path = Path(self.config.checkpoint).resolve()
        return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem

    def outcome_settings(self) -> dict[str, Any]:
        """Everything that decides the rows: the run folder belongs to it."""
        victim: dict[str, Any] = {"output": self.victim_options.output}
        if self.config.checkpoint is not None:
            victim["checkpoint_sha256"] = file_sha256(self.config.checkpoint)
        else:
            victim |= {key: value for key, value in self.resolved["victim"].items() if key != "state_dict"}
            if self.victim_options.state_dict is not None:
                victim["state_dict_sha256"] = file_sha256(self.victim_options.state_dict)
        if (box := box_file(self.module)) is not None:
            victim["box_sha256"] = file_sha256(box)
        same = {key: self.resolved[key] for key in ("data", "images", "seed", *self.outcome_keys)}
        return {"victim": victim, **result_settings(same)}

    def parents(self) -> list[dict[str, Any]]:
        """The files that the victim is made of, with their hashes."""
        files = (self.config.checkpoint, self.victim_options.state_dict, box_file(self.module))
        return [parent_of(path) for path in files if path is not None]

    def own_callbacks(self) -> list[Callback]:
        """What goes along with the batches."""
        return []

    @abstractmethod
    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the options of the job."""

    @abstractmethod
    def build_task(self, victim: Callable[..., Any], num_classes: int) -> EvaluationTask:
        """What is done with a batch."""

    @abstractmethod
    def method_name(self) -> str:
        """The second half of the run's default name."""

    @abstractmethod
    def run(self) -> None:
        """Do the job."""


def check_surrogates(attack: Attack | None, data: LightningDataModule) -> None:
    """Raise ValueError for models to craft on that take other images than the data's, or tell other classes."""
    for number, surrogate in enumerate(getattr(attack, "surrogates", ())):
        try:
            check_fit(surrogate, data)
        except ValueError as error:
            raise ValueError(f"attack.surrogates[{number}]: {error}") from error
