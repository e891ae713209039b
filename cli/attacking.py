"""attack.py's own options: the attack, the budget, the targets."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningArgumentParser

from callbacks.attack_report import report_attack
from callbacks.record_writer import AttackRecordWriter
from callbacks.tasks import AttackTask, Targets
from cli.recording import RecordsCLI
from zeroth.attacks import Attack
from zeroth.attacks.label.starts import Pool

EXAMPLES = """\
Attack a victim through queries alone. Records, report.json and pictures go to runs/attack/<name>; a killed run goes on
where it was when the same command is given again.

examples:
  python attack.py --checkpoint runs/train-victim/digits/checkpoints/best.ckpt --attack configs/attack/zo_ngd.yaml
  python attack.py --checkpoint best.ckpt --attack ZONGD --attack.epsilon 0.2 --budget 2000 --images.count 200
  python attack.py --victim resnet18 --victim.weights DEFAULT --data configs/data/imagenet.yaml --attack NESPGD
  python attack.py --victim my.package.Net --victim.state_dict net.pt --data MNIST --attack ZONGD --targeted next
"""


def add_attack_arguments(parser: LightningArgumentParser, *, budget: int) -> None:
    """Add the options of an attack on each image: which, how many queries by default, to what end."""
    parser.add_subclass_arguments(
        Attack,
        "attack",
        required=True,
        help="YAML file or class of zeroth.attacks, e.g. --attack configs/attack/zo_ngd.yaml --attack.samples 20",
    )
    parser.add_argument(
        "--budget", type=int, default=budget, help="queries an image (or pair) may spend, its first check included"
    )
    parser.add_argument(
        "--targeted",
        type=Targets,
        default="none",
        help="wanted label: none, next (label + 1), random, least_likely (in the victim's first answer) or all (a row "
        "for each pair of an image and a wrong class; --batch_size counts pairs)",
    )


def attack_name(attack: Namespace) -> str:
    """Name a parsed attack by its file, else by its class."""
    file = attack.get("__path__")
    return Path(str(file)).stem if file else str(attack.class_path).rpartition(".")[2].lower()


def training_images(data: LightningDataModule) -> Pool:
    """Give the training images, from which targeted attacks on labels start; they are read when asked for.

    Raises:
        FileNotFoundError: there are none.
    """
    split = data.dataset("train")  # type: ignore[attr-defined]
    return Pool(split.targets, lambda places: torch.stack([split[place]["image"] for place in places.tolist()]))


class AttackCLI(RecordsCLI):
    """Parses, builds and runs an attack over the selected images."""

    job = "attack"
    examples = EXAMPLES
    batch_size = 100
    outcome_keys = ("attack", "budget", "targeted", "total_queries")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the attack's options."""
        add_attack_arguments(parser, budget=10_000)
        parser.add_argument(
            "--total_queries",
            type=int | None,
            default=None,
            help="cap on the queries of all images together, in order; one process only",
        )
        parser.add_argument(
            "--save_adversarial",
            action="store_true",
            help="keep the adversarial images, adversarial/*.safetensors in the run folder",
        )

    def build_task(self, victim: Callable[..., Any], num_classes: int) -> AttackTask:
        """The attack on a batch."""
        config = self.config_init
        devices = config.trainer.devices, config.trainer.num_nodes
        if config.total_queries is not None and (
            config.shard is not None or devices not in ((1, 1), ("1", 1), ("auto", 1))
        ):
            raise ValueError(
                "total_queries counts over all images in order: leave out --shard, and use --trainer.devices 1"
            )
        return AttackTask(
            victim,
            config.attack,
            num_classes=num_classes,
            budget=config.budget,
            seed=config.seed,
            output=self.victim_options.output,
            targeted=config.targeted,
            total_queries=config.total_queries,
            max_batch=config.max_batch,
            starts=lambda: training_images(config.data),
        )

    def build_writer(self) -> AttackRecordWriter:
        """Rows, curves and pictures of a batch."""
        return AttackRecordWriter(
            self.folder, self.header("attack"), save_adversarial=self.config_init.save_adversarial
        )

    def outcome_settings(self) -> dict[str, Any]:
        """As for every evaluation; under a cap on all queries the batches decide who still gets some."""
        settings = super().outcome_settings()
        return (
            settings
            if self.config_init.total_queries is None
            else {**settings, "batch_size": self.config_init.batch_size}
        )

    def method_name(self) -> str:
        """The attack's file or class."""
        return attack_name(self.config.attack)

    def report(self) -> Mapping[str, Any]:
        """Merge and show."""
        return report_attack(
            self.trainer,
            self.folder,
            self.config_init.attack,
            budget=self.config.budget,
            images=self.data.total,
            rows_an_image=self.task.rows_an_image,
            seed=self.config.seed,
            parents=self.parents(),
            class_names=getattr(self.config_init.data, "class_names", None),
        )
