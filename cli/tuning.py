"""tune.py's own options: the attack, where it is searched, how many trials it gets."""

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser

import zeroth.attacks
from callbacks.lineage import write_lineage
from callbacks.loggers import log_config, runs_of
from callbacks.tasks import AttackTask
from callbacks.tuning import (
    Objective,
    ResultKeeper,
    TuningTrial,
    best_trial,
    measure,
    propose,
    read_trials,
    worst_value,
)
from callbacks.tuning_report import TuningProgress, log_trial, report_tuning
from cli.attacking import add_attack_arguments, attack_name, training_images
from cli.checkpoints import parents_in
from cli.evaluation import EvaluationCLI
from cli.folders import save_config
from cli.parser import spelled
from cli.search_space import SearchSpace, build_attack, check_ends, find_space, read_space, starting_point
from zeroth.records import write_json

EXAMPLES = """\
Tune an attack on training images: trial 0 is the attack as given, the others are chosen by Optuna's TPE, each on the
same images with the same seed. trials.json and tuned.yaml, which --attack takes, go to runs/tune/<name>; a killed run
goes on with the trial that it was in when the same command is given again, and a larger --trials goes on from there.

examples:
  python tune.py --checkpoint runs/train-victim/digits/checkpoints/best.ckpt --attack configs/attack/zo_ngd.yaml
  python tune.py --checkpoint best.ckpt --attack ZONGD --attack.epsilon 0.2 --trials 20 --budget 1000
  python tune.py --checkpoint best.ckpt --attack configs/attack/nes_pgd.yaml --space configs/tune/nes_pgd.yaml
  python tune.py --checkpoint best.ckpt --attack RGESign --write my_rge_sign.yaml
"""
SAMPLER = f"Optuna {optuna.__version__} TPE"


class TuneCLI(EvaluationCLI):
    """Parses, builds and runs a tuning; one process.

    Args:
        args: command line words; default: the program's own.
    """

    job = "tune"
    examples = EXAMPLES
    batch_size = 100
    batch_help = "a kill loses at most one trial"
    outcome_keys = ("attack", "budget", "targeted", "trials")
    growing = ("trials",)
    task: AttackTask

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self.words = [spelled(word) for word in (sys.argv[1:] if args is None else args)]
        super().__init__(self.words)

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the attack and the options of its search."""
        add_attack_arguments(parser, budget=4_000)
        parser.add_argument(
            "--space",
            type=str | None,
            default=None,
            help="YAML file of the searched parameters; default configs/tune/<stem>.yaml by the stem of the attack's "
            "file, else of its module",
        )
        parser.add_argument("--trials", type=int, default=40, help="how many, the attack as given among them")
        parser.add_argument(
            "--objective",
            type=Objective | None,
            default=None,
            help="what is made small: queries (mean spent an image, the whole budget for a failure) or distance "
            "(median at the budget); default queries for attacks that stop at success, distance for the others",
        )
        parser.add_argument("--write", type=str | None, default=None, help="YAML file that gets a copy of tuned.yaml")
        parser.set_defaults({"images.split": "train", "images.count": 100})

    def build_task(self, victim: Callable[..., Any], num_classes: int) -> AttackTask:
        """The attack on a batch; each trial puts its own attack in."""
        config = self.config_init
        if config.trials < 1:
            raise ValueError(f"trials must be at least 1, the attack as given, got {config.trials}")
        if config.write is not None and (not config.write.endswith((".yaml", ".yml")) or Path(config.write).is_dir()):
            raise ValueError(f"write must be a file NAME.yaml, which --attack can take, got {config.write}")
        return AttackTask(
            victim,
            config.attack,
            num_classes=num_classes,
            budget=config.budget,
            seed=config.seed,
            output=self.victim_options.output,
            targeted=config.targeted,
            max_batch=config.max_batch,
            starts=lambda: training_images(config.data),
        )

    def method_name(self) -> str:
        """The attack's file or class."""
        return attack_name(self.config.attack)

    @cached_property
    def space(self) -> SearchSpace:
        """Where the attack is searched, checked against it.

        Raises:
            FileNotFoundError, ValueError: as in :mod:`cli.search_space`, or an option fixes what is searched.
        """
        attack, given = self.config_init.attack, self.resolved["attack"]
        file = self.config.attack.get("__path__")
        stem = Path(str(file)).stem if file else None
        place = find_space(type(attack), stem) if self.config.space is None else Path(self.config.space)
        space = read_space(place, type(attack))
        for word in self.words:
            named = re.match(r"--attack\.(?:init_args\.)?(\w+)(=|$)", word)
            if named and named[1] in space.entries:
                raise ValueError(
                    f"attack.{named[1]} is fixed on the command line, but {place} searches it: leave out the "
                    f"option, or give a --space without {named[1]}"
                )
        check_ends(space, given["class_path"], given.get("init_args", {}))
        return space

    @cached_property
    def start(self) -> dict[str, Any]:
        """The searched parameters of trial 0."""
        return starting_point(self.space, self.config_init.attack, self.resolved["attack"].get("init_args", {}))

    @cached_property
    def objective(self) -> Objective:
        """What is made small.

        Raises:
            ValueError: the attack always spends its budget, so that queries would tell trials apart by nothing.
        """
        attack, wanted = self.config_init.attack, self.config_init.objective
        if wanted == "queries" and not attack.stop_at_success:
            raise ValueError(
                f"objective 'queries' is for attacks that stop at success; {type(attack).__name__} spends its budget "
                "on every image: leave the option out, or give --objective distance"
            )
        return wanted or ("queries" if attack.stop_at_success else "distance")

    def outcome_settings(self) -> dict[str, Any]:
        """As for every evaluation; the space by what it says, not by its name."""
        return super().outcome_settings() | {
            "objective": self.objective,
            "space": self.space.entries,
            "start": self.start,
        }

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """As for every evaluation.

        Raises:
            ValueError: options that would deal out the images to several processes.
        """
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1:
            raise ValueError("each trial needs all images: use --trainer.devices 1")
        return trainer

    def own_callbacks(self) -> list[Callback]:
        """What keeps the results of a trial, and the progress line."""
        self.keeper = ResultKeeper()
        self.tried = read_trials(self.folder / "trials.json")
        self.progress: TuningProgress | None = None
        if len(self.tried) > self.config.trials:
            raise ValueError(
                f"{self.folder} holds {len(self.tried)} trials, more than trials {self.config.trials}: give as many or "
                "more to go on with it, or give this run a name of its own by --run.name"
            )
        if self.config_init.trainer.enable_progress_bar is False:
            return [self.keeper]
        self.progress = TuningProgress(self.config.trials, self.tried)
        return [self.keeper, self.progress]

    def run(self) -> None:
        """Try what has not been tried yet, then report."""
        self.data.prepare_data()
        self.data.setup()  # missing images are told before anything is written
        self.resolved |= {"space": str(self.space.file), "objective": self.objective}
        save_config(self.folder, self.resolved)
        lineage = write_lineage(self.folder, self.job, self.settings, [*self.parents(), *parents_in(self.settings)])
        runs = runs_of(self.trainer)
        log_config(runs, self.resolved)
        for trial in self.tried:
            log_trial(runs, trial)
        with nullcontext() if self.progress is None else self.progress.over(self.data.total * self.task.rows_an_image):
            while len(self.tried) < self.config.trials:
                trial = self.try_next()
                self.tried.append(trial)
                self.keep(lineage)
                log_trial(runs, trial)
                if self.progress is not None:
                    self.progress.ended(trial)
        told = self.keep(lineage)
        write = None if self.config.write is None else Path(self.config.write)
        report_tuning(self.trainer, self.folder, told, self.tried, self.parents(), write)

    def try_next(self) -> TuningTrial:
        """Attack all images with the next parameters.

        Raises:
            ValueError: the attack cannot be run as it is given (later trials that cannot count as failed ones).
        """
        number, given = len(self.tried), self.resolved["attack"]
        params = propose(self.space.distributions, self.tried, seed=self.config.seed) if number else self.start
        began = time.perf_counter()
        failed, found = None, {}
        try:
            self.task.attack = build_attack(given["class_path"], {**given.get("init_args", {}), **params})
            self.trainer.predict(self.task, datamodule=self.data, return_predictions=False)
            found = measure(self.keeper.results, self.objective, self.config.budget)
        except (ValueError, FloatingPointError, torch.linalg.LinAlgError) as error:
            if number == 0:
                raise
            # The same effort for every attack: parameters that go ill with one another have used up their trial.
            failed = " ".join(str(error).split()) or type(error).__name__
            found = {"value": worst_value(self.objective, self.config.budget)}
            found |= dict.fromkeys(("success_rate", "mean_queries", "total_queries"))
        return TuningTrial(number=number, params=params, seconds=time.perf_counter() - began, failed=failed, **found)

    def keep(self, lineage: Mapping[str, Any]) -> dict[str, Any]:
        """Write trials.json, as a whole at once; returns what it says."""
        given, images = self.resolved["attack"], self.resolved["images"]
        name = given["class_path"].rpartition(".")[2]
        told = {
            # Short names are for the project's own classes.
            "attack": name if name in zeroth.attacks.__all__ else given["class_path"],
            "given": given.get("init_args", {}),
            "space": self.space.entries,
            "objective": self.objective,
            "trials": len(self.tried),
            "seed": self.config.seed,
            "sampler": SAMPLER,
            "budget": self.config.budget,
            "targeted": self.config.targeted,
            "data": self.resolved["data"]["class_path"].rpartition(".")[2],
            "images": self.data.total,
            "selection": images,
            "indices": [index for batch in self.data.batches for index in batch],
            "victim_name": self.victim_name(),
            "victim": self.settings["victim"],
            "config_hash": lineage["config_hash"],
            "versions": lineage["versions"] | {"optuna": optuna.__version__},
            "best": asdict(best_trial(self.tried)),
            "results": [asdict(trial) for trial in self.tried],
        }
        write_json(self.folder / "trials.json", told)
        return told
