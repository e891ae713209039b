"""What a user reads when something is wrong: one last line that names the option, its value and the remedy."""

import difflib
import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import nn

from zeroth.attacks import Attack
from zeroth.oracles import VictimError

# Options that take a class, the base of that class, and the package whose classes are listed.
CLASS_OPTIONS: dict[str, tuple[type, str]] = {
    "attack": (Attack, "zeroth.attacks"),
    "data": (LightningDataModule, "datamodules"),
    "model": (LightningModule, "lightning_modules"),
    "network": (nn.Module, "zeroth.networks"),
    "surrogates": (nn.Module, "zeroth.networks"),
    "victim": (nn.Module, "zeroth.networks"),
}

# Lines of jsonargparse's report of a failed union that say nothing to a user.
_NOISE = re.compile(
    r"\s*(- )?(Expected a <class 'NoneType'>.*|Given value.*|Subtypes: .*|Errors:|Expected a path but .*"
    r"|Does not validate against any of the Union subtypes)\s*"
)
_UNKNOWN_CLASS = re.compile(
    r"Expected a dot import path string: (\S+)|Unexpected import path format: (\S+)"
    r"|No module named '([^']+)'|has no attribute '([^']+)'"
)
_REFUSED = re.compile(r"(?:Group '(?P<group>[^']+)' does not accept option|Option) '(?P<key>[^']+)'")
_KEY = re.compile(r'(?:Parser key|key) "([^"]+)"')


def known_classes(option: str) -> list[str]:
    """Short names that an option of :data:`CLASS_OPTIONS` accepts."""
    base, package = CLASS_OPTIONS[option]
    module = importlib.import_module(package)
    classes = {
        name: value for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)
    }
    if option in ("surrogates", "victim"):  # denoisers and autoencoders stand beside the classifiers
        classes = {name: value for name, value in classes.items() if getattr(value, "answers", "scores") == "scores"}
    return sorted(
        name
        for name, value in classes.items()
        if value is not base and not name.startswith("_") and not _abstract(value)
    )


def _abstract(value: type) -> bool:
    """Whether a class leaves a method to its subclasses, also where its metaclass does not enforce that."""
    return any(getattr(getattr(value, name, None), "__isabstractmethod__", False) for name in dir(value))


def explain(message: str, options: list[str]) -> str:
    """Shorten a report of jsonargparse to one line with the remedy.

    Args:
        message: its report, many lines for a nested error.
        options: the command line's own options, to suggest a near one.
    """
    if found := re.search(r"unrecognized arguments: (.*)", message, re.S):
        name = re.split(r"[ =]", found.group(1))[0]
        near = difflib.get_close_matches(name, options, n=1)
        return f"unknown option {found.group(1)}" + (
            f": did you mean {near[0]}?" if near else "; --help lists the options"
        )
    if lacking := _lacking(message):
        return lacking
    if found := re.search(r"the following arguments are required: (.*)", message):
        missing = [
            f"option --{name}" if f"--{name}" in options else name.upper() for name in found.group(1).split(", ")
        ]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required; --help tells more"
    keys = _KEY.findall(message)
    option = keys[-1].split(".")[-1] if keys else ""
    if option in CLASS_OPTIONS and (unknown := _unknown_class(message)):
        known = ", ".join(known_classes(option))
        if unknown.endswith((".yaml", ".yml", ".json")) or "/" in unknown:
            return f"{option}: the file {unknown} does not exist; give a YAML file or one of {known}"
        return f"{option}: unknown class {unknown!r}; known are {known} (or a class path of your own)"
    if keys and "codec can't decode" in message:
        value = re.search(r"val='([^']+)'", message)
        file = f"the file {value[1]}" if value else "the file that was given"
        classes = f" or one of {', '.join(known_classes(option))}" if option in CLASS_OPTIONS else ""
        return (
            f"{'.'.join(keys)}: {file} is no text: give a YAML file{classes}; networks of a checkpoint of train.py "
            "are read by CheckpointClassifier and its like, argument checkpoint"
        )
    lines = [
        line.strip().removeprefix("- ") for line in message.splitlines() if line.strip() and not _NOISE.fullmatch(line)
    ]
    text = " ".join(_KEY.sub(r"\1", line) for line in lines) or message.strip()
    text = re.sub(r"Problem with given class_path '([\w.]+\.)?(\w+)':?", r"\2:", text)
    text = re.sub(r"[Ee]xpected a <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1", text)
    text = re.sub(r"[Ee]xpected a typing.Literal\[(.*?)\]", r"expected one of \1", text)
    nameless = f"name the class before its arguments, as in --{'.'.join(keys)} NAME"
    text = re.sub(r"Expected an instantiatable class, but \S+ is abstract", nameless, text)
    text = re.sub(r"\.? Got value: ", ", got ", text)
    given = re.search(r"Given value: ([^\s{(]+)\s*$", message)
    got = f", got {given.group(1)}" if given and given.group(1) not in text else ""
    return text + got + _accepted(message, options)


def _lacking(message: str) -> str | None:
    """Say which arguments a class lacks, by their options where the class is an option's own; None where none does."""
    before, found, missing = message.partition("the following arguments are required: ")
    classes, keys = re.findall(r"given class_path '(?:[\w.]+\.)?(\w+)'", before), _KEY.findall(before)
    if not (found and classes and keys):
        return None
    start = f"--{keys[0]}." if len(classes) == 1 else ""
    names = [f"{start}{name}" for name in missing.splitlines()[0].split(", ")]
    needed = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} required"
    return f"{keys[0]}: {classes[-1]}: {needed}; --{keys[0]}.help {classes[0]} tells more"


def refused_key(message: str) -> str | None:
    """The last part of the key that a report of jsonargparse says is unknown, None where it says something else."""
    found = _REFUSED.search(message)
    return found["key"].rpartition(".")[2] if found else None


def _unknown_class(message: str) -> str | None:
    if re.search(r"Unable to (read|load)", message):  # the file is there but is no YAML
        return None
    if found := re.search(r"Given value: ([^\s{(]+)\s*$", message):
        return found.group(1) if _UNKNOWN_CLASS.search(message) else None
    found = _UNKNOWN_CLASS.search(message)
    return next((name for name in found.groups() if name), None) if found else None


def _accepted(message: str, options: list[str]) -> str:
    """Suggest a near option, and list what a class takes, when a class, a group or the command was given another."""
    refused = _REFUSED.search(message)
    if refused is None:
        return ""
    if path := re.findall(r"class_path '([\w.]+)\.(\w+)'", message):
        target = getattr(importlib.import_module(path[-1][0]), path[-1][1], None)
        names = [name for name in inspect.signature(target).parameters if name != "self"] if target else []
        rest = f"{path[-1][1]} takes {', '.join(names)}"
    else:
        start = f"--{refused['group']}." if refused["group"] else "--"
        names = [name.removeprefix(start) for name in options if name.startswith(start)]
        rest = "--help lists the options"
    near = difflib.get_close_matches(refused["key"], names, n=1)
    return f"; did you mean {near[0]}? {rest}" if near else f"; {rest}"


@contextmanager
def plain_messages() -> Iterator[None]:
    """End the program with the message alone: exit code 2 for faulty input, 1 where a victim, disk or training fails.

    Other errors are bugs and keep their traceback; ZEROTH_DEBUG=1 shows it for all.
    """
    # Lightning 2.6 asks torch's pytree in a way that torch deprecates: nothing that a user could mend.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(_last_line("stopped; the same command goes on from here", 130))
    except SIGTERMException:  # Lightning's own exit code for it is 0, as if the training had come to its end
        sys.exit(_last_line("stopped; the same command goes on from here", 143))
    except (ValueError, FileNotFoundError, MisconfigurationException) as error:
        if os.environ.get("ZEROTH_DEBUG"):
            raise
        sys.exit(_last_line(explain(_text(error), []), 2))
    except (VictimError, OSError, FloatingPointError) as error:
        if os.environ.get("ZEROTH_DEBUG"):
            raise
        sys.exit(_last_line(_text(error), 1))


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror  # our own whole sentence: without "[Errno 28]" before it
    return str(error) if str(error) else type(error).__name__


def _last_line(message: str, code: int) -> int:
    rank = getattr(rank_zero_only, "rank", 0) or 0
    where = f" (rank {rank})" if rank else ""
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error{where}: {message}\n")
    sys.stderr.flush()
    return code
