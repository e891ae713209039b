"""Who may import whom: the arrows of the house point one way, and this test walks every import to see that they do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = {
    "zeroth.networks": set(),
    "zeroth.oracles": set(),
    "zeroth.records": set(),
    "zeroth.smoothing": {"zeroth.oracles", "zeroth.networks"},
    "zeroth.defenses": {"zeroth.oracles", "zeroth.networks"},
    "zeroth.estimators": {"zeroth.oracles", "zeroth.networks"},
    "zeroth.optimizers": {"zeroth.oracles", "zeroth.estimators", "zeroth.networks"},
    "zeroth.problems": {"zeroth.oracles", "zeroth.estimators", "zeroth.optimizers"},
    "zeroth.meta": {"zeroth.oracles", "zeroth.estimators", "zeroth.optimizers", "zeroth.problems"},
    "zeroth.attacks": {"zeroth.oracles", "zeroth.estimators", "zeroth.optimizers", "zeroth.networks"},
}
ENTRY_POINTS = {"cli", "train", "attack", "certify", "tune", "reproduce", "experiments", "benchmarks"}
# "zeroth" stands for the whole library; an entry point may import everything but the tests.
ALLOWED = LIBRARY | {
    "zeroth": set(),
    "lightning_modules": {"zeroth"},
    "datamodules": {"zeroth"},
    "callbacks": {"zeroth", "lightning_modules", "datamodules"},
}
ALLOWED |= {name: set(ALLOWED) | ENTRY_POINTS for name in ENTRY_POINTS}
PROJECT = {part.partition(".")[0] for part in ALLOWED} | {"tests"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}


def part_of(module: str) -> str:
    """The part of the house that a dotted name lies in: a folder of the library, or a top-level package."""
    top, _, rest = module.partition(".")
    inner = f"{top}.{rest.partition('.')[0]}"
    return inner if inner in LIBRARY else top


def imports(source: str, module: str, package: bool) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute dotted name of every import, the ones inside functions and type checks too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: None if package and node.level == 1 else (1 if package else 0) - node.level]
                base = ".".join([*above, *([base] if base else [])])
            # `from zeroth import oracles` names the module only together with the alias.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def faults(source: str, module: str, *, package: bool = False) -> list[str]:
    """Say what one file imports against the rules."""
    here, found = part_of(module), []
    for line, name in imports(source, module, package):
        there, top = part_of(name), name.partition(".")[0]
        if top in PROJECT and there != here and not {there, top} & ALLOWED.get(here, set()):
            found.append(f"{module}:{line}: {here} may not import {there}")
        if top in LIGHTNING and here.startswith("zeroth"):
            found.append(f"{module}:{line}: {top} appears only above zeroth/")
        if top == "wandb" and here != "callbacks":
            found.append(f"{module}:{line}: wandb is imported only in callbacks/")
    return found


def project_files() -> list[Path]:
    """Every Python file outside the tests."""
    modules = [ROOT / f"{name}.py" for name in sorted(ENTRY_POINTS)]
    folders = [ROOT / name for name in sorted(PROJECT - {"tests"})]
    return [file for file in modules if file.exists()] + [file for folder in folders for file in folder.rglob("*.py")]


def module_of(file: Path) -> str:
    """The dotted name that a file is imported by."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_import_points_down_the_house():
    found, parts = [], set()
    for file in project_files():
        module = module_of(file)
        parts.add(part_of(module))
        found += faults(file.read_text(), module, package=file.name == "__init__.py")
    assert parts >= {"zeroth.oracles", "zeroth.attacks", "lightning_modules", "callbacks", "cli", "train", "attack"}
    assert not found, "\n".join(found)


def test_every_folder_of_the_library_is_in_the_table():
    folders = {f"zeroth.{path.parent.name}" for path in (ROOT / "zeroth").glob("*/__init__.py")}
    assert folders <= set(LIBRARY), f"say in tests/test_imports.py what {sorted(folders - set(LIBRARY))} may import"


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("zeroth.oracles.trial", "from zeroth.attacks import ZONGD"),
        ("zeroth.oracles.trial", "from zeroth import attacks"),
        ("zeroth.oracles.trial", "from ..attacks import ZONGD"),
        ("zeroth.oracles.trial", "def f():\n    import zeroth.networks.digits_cnn"),
        ("zeroth.records.schema", "import callbacks"),
        ("zeroth.smoothing.votes", "from zeroth.estimators.rge import RGE"),
        ("zeroth.estimators.rge", "from zeroth.attacks.attack import Attack"),
        ("zeroth.attacks.score.zo_ngd", "if TYPE_CHECKING:\n    from zeroth.records import schema"),
        ("zeroth.attacks.score.zo_ngd", "import pytorch_lightning as pl"),
        ("zeroth", "from lightning_modules import Classifier"),
        ("zeroth", "from . import oracles"),
        ("datamodules.digits", "from lightning_modules.classifier import Classifier"),
        ("lightning_modules.classifier", "from callbacks import records"),
        ("callbacks.records", "from cli.parser import ZerothParser"),
        ("callbacks.records", "from tests.victims import linear"),
        ("cli.parser", "import wandb"),
    ],
)
def test_a_planted_violation_is_caught(module, planted):
    assert len(faults(planted, module, package=module == "zeroth")) == 1


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("zeroth.attacks.score.zo_ngd", "from zeroth.oracles import Trial\nfrom zeroth.attacks.attack import Attack"),
        ("zeroth.attacks.score.zo_ngd", "from ..attack import Attack\nfrom ...estimators import RGE\nimport torch"),
        ("zeroth.smoothing.votes", "from zeroth.oracles.streams import ImageStreams"),
        ("lightning_modules.classifier", "import pytorch_lightning as pl\nfrom zeroth.networks import DigitsCNN"),
        ("callbacks.records", "import wandb\nfrom datamodules import Digits\nfrom zeroth.records import schema"),
        ("attack", "from cli import main\nimport callbacks.records\nimport zeroth"),
    ],
)
def test_an_arrow_that_points_down_is_let_through(module, allowed):
    assert faults(allowed, module) == []
