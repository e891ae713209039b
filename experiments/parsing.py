"""The command line of a stage's program, asked what words mean: it parses and builds nothing."""

import functools
import importlib
import inspect
import json
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, ClassVar

from cli import AttackCLI, CertifyCLI, TrainCLI
from cli.evaluation import EvaluationCLI
from cli.parser import ZerothParser
from experiments.experiment import Stage


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Turn options into words of a command line, two an option; what is no text is given as JSON.

    A class or file (``attack``) comes before what is changed of it (``attack.mu``), a whole config before all.
    """
    words = []
    for key, value in sorted(options.items(), key=lambda item: (item[0] != "config", item[0].count("."))):
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def command_line(stage: Stage) -> type[TrainCLI] | type[EvaluationCLI]:
    """The command line of a stage's program.

    Raises:
        ValueError: the study is no module of ``experiments/studies``.
    """
    if stage.job == "tune":
        from cli.tuning import TuneCLI

        return TuneCLI
    if stage.job == "study":
        try:
            module = importlib.import_module(f"experiments.studies.{stage.study}")
        except ModuleNotFoundError as error:
            raise ValueError(f"study {stage.study!r} is no module of experiments/studies") from error
        (command,) = (
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, EvaluationCLI) and value.__module__ == module.__name__
        )
        return command
    commands: dict[str, type[TrainCLI] | type[EvaluationCLI]] = {
        "train": TrainCLI,
        "attack": AttackCLI,
        "certify": CertifyCLI,
    }
    return commands[stage.job]


def parse(command: Any, words: list[str]) -> Any:
    """Parse words by a command line that builds nothing and opens no checkpoint.

    Raises:
        ValueError: an option, a file or a value is wrong.
    """
    return _parsing_only(command)(words)


@functools.cache
def _parsing_only(command: Any) -> Any:
    """The command line that only parses; its parser is made once, which takes as long as a parse."""

    class Parsed(command):
        kept: ClassVar[ZerothParser | None] = None
        parser: ZerothParser

        def setup_parser(self, *args: Any, **kwargs: Any) -> None:
            if Parsed.kept is None:
                super().setup_parser(*args, **kwargs)
                Parsed.kept = self.parser
            self.parser = Parsed.kept

        def parse_arguments(self, parser: ZerothParser, args: Any) -> None:
            parser.exit_on_error = False
            try:
                self.config = parser.parse_args(args)
            except ArgumentError as error:
                raise ValueError(parser.explained(str(error))) from error

        def _dump_config(self) -> None:
            """As LightningCLI's, in the faster format and without a second look at values that were just parsed."""
            if hasattr(self, "config_dump"):
                return
            options = {"skip_link_targets": False, "skip_unset": False, "skip_validation": True}
            self.config_dump = json.loads(self.parser.dump(self.config, format="json", **options))

        def _set_seed(self) -> None:
            """Nothing: planning draws nothing."""

        def before_instantiate_classes(self) -> None:
            """Nothing: there is no folder yet."""

        def instantiate_classes(self) -> None:
            """Nothing."""

    return Parsed


def plain_config(parsed: Any) -> dict[str, Any]:
    """The configuration as config.yaml will have it."""
    parsed._dump_config()
    return {key: value for key, value in parsed.config_dump.items() if key != "config"}
