"""The parser that all entry points share."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter, set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser

from cli.faults import explain, refused_key

# Values that may be anything are kept as they are written, which jsonargparse 5 does by default.
set_parsing_settings(instantiate_subclass_spec_in_any=False)


class ExamplesFormatter(DefaultHelpFormatter):
    """Keeps the line breaks of the description, so that its examples can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}\n" for line in text.splitlines())


PARSER = {
    "allow_abbrev": False,
    "formatter_class": ExamplesFormatter,
    "usage": "%(prog)s [options]",
    "epilog": "Options have underscores, as in YAML files; dashes do as well: --batch-size is --batch_size.",
}
_CONFIG_FILES = (".yaml", ".yml", ".json")
# The name of an option. Below an argument of a victim's class are the user's own keys, such as an HTTP header.
_NAME = re.compile(r"^--(victim\.init[-_]args\.[^.=]+|[^=]+)")


class ZerothParser(LightningArgumentParser):
    """LightningArgumentParser with one-line errors.

    ``--victim NAME`` is short for ``--victim.name NAME``, and dashes in the name of an option are underscores.
    """

    _files: tuple[tuple[str, Path], ...] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog}: error: {self.explained(message)}\n")
        self.exit(2)

    def explained(self, message: str) -> str:
        """Shorten a report of jsonargparse to one line that names the file, the option and the remedy."""
        text = explain(message, [name for action in self._actions for name in action.option_strings])
        return self._place(message) + text

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Any:
        """Parse, with names spelled out: a group's own option takes a file only."""
        words = [spelled(word) for word in (sys.argv[1:] if args is None else args)]
        for place, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name != "--victim":
                continue
            value = value if equals else (words[place + 1] if place + 1 < len(words) else "")
            if not value.endswith(_CONFIG_FILES) and not value.startswith("{"):
                words[place] = f"--victim.name{equals}{value if equals else ''}"
        values = [word.partition("=")[2] or word for word in words]
        # Absolute: a file is read, and its faults are told, from its own folder.
        self._files = tuple((value, Path(value).absolute()) for value in values if value.endswith(_CONFIG_FILES))
        try:
            return super().parse_args(words, *rest, **kwargs)
        except UnicodeDecodeError as error:  # of --config alone: jsonargparse tells those of options as it does others
            at = words.index("--config") if "--config" in words else -1
            named = words[at + 1] if 0 <= at < len(words) - 1 else "that was given"
            raise ValueError(f"config: the file {named} is no text: give a YAML file, as those of configs/") from error

    def _place(self, message: str) -> str:
        """Name the file that holds the key at fault; empty for one of the command line."""
        if key := refused_key(message):
            spelling = re.compile(rf"\b{re.escape(key)}[\"']?\s*:")
            for name, path in self._files:
                if path.is_file() and spelling.search(path.read_text(encoding="utf-8")):
                    return f"{name}: "
        return ""


def spelled(word: str) -> str:
    """Spell the option in a word of the command line with underscores; values are left as they are."""
    return _NAME.sub(lambda found: "--" + found[1].replace("-", "_"), word)
