"""The parser that all entry points share."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from pytorch_lightning.cli import LightningArgumentParser

from cli.faults import explain


class ExamplesFormatter(DefaultHelpFormatter):
    """Keeps the line breaks of the description, so that its examples can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}\n" for line in text.splitlines())


PARSER = {"allow_abbrev": False, "formatter_class": ExamplesFormatter, "usage": "%(prog)s [options]"}
_CONFIG_FILES = (".yaml", ".yml", ".json")


class ZerothParser(LightningArgumentParser):
    """LightningArgumentParser with one-line errors, and ``--victim NAME`` for ``--victim.name NAME``."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        text = explain(message, [name for action in self._actions for name in action.option_strings])
        sys.stderr.write(f"{self.prog}: error: {text}\n")
        self.exit(2)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Any:
        """Parse, with the short spelling of the victim's name written out: a group's own option takes a file only."""
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name != "--victim":
                continue
            value = value if equals else (words[place + 1] if place + 1 < len(words) else "")
            if not value.endswith(_CONFIG_FILES) and not value.startswith("{"):
                words[place] = f"--victim.name{equals}{value if equals else ''}"
        return super().parse_args(words, *rest, **kwargs)
