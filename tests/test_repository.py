"""What the repository promises in its own files: the package list, the tested versions, the shape of the tree."""

import configparser
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import zeroth
from tests.victims import Logging, random_linear
from zeroth.oracles import ScoreOracle

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def requirement_names(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {re.split(r"[\[<>=!~]", line)[0].lower() for line in lines if line and not line.startswith("#")}


def test_the_package_list_is_the_tree():
    tops = ("zeroth", "lightning_modules", "datamodules", "callbacks", "cli", "experiments")
    folders = {str(file.parent.relative_to(ROOT)) for top in tops for file in (ROOT / top).rglob("*.py")}
    listed = SETUP["options"]["packages"].split()
    assert sorted(folder.replace("/", ".") for folder in folders) == sorted(listed)
    assert [name for name in listed if not (ROOT / name.replace(".", "/") / "__init__.py").exists()] == []


def test_the_listed_modules_are_the_entry_points():
    assert sorted(SETUP["options"]["py_modules"].split()) == sorted(file.stem for file in ROOT.glob("*.py"))


def test_the_versions_agree():
    assert SETUP["metadata"]["version"] == zeroth.__version__
    assert f"## [{zeroth.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_requirement_is_pinned_and_says_why():
    pinned = requirement_names((ROOT / "constraints.txt").read_text())
    for listing in (SETUP["options"]["install_requires"], SETUP["options.extras_require"]["dev"]):
        assert requirement_names(listing) - pinned == set()
    # configparser drops full-line comments, so the reasons are read from the text: one comment above each bound.
    text = (ROOT / "setup.cfg").read_text()
    block = text[text.index("install_requires =") : text.index("[tool:pytest]")]
    lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    bounds = [number for number, line in enumerate(lines) if not line.startswith("#")]
    assert len(bounds) >= 20
    assert [lines[number] for number in bounds if not lines[number - 1].startswith("#")] == []


def test_torch_and_torchvision_are_pinned_together():
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert set(pins) == {"torch", "torchvision"}


def test_modules_stay_short():
    long = {str(f.relative_to(ROOT)): n for f in sources() if (n := len(f.read_text().splitlines())) > 300}
    assert not long, f"two things in one file: {long}"


def test_no_file_is_a_drawer_for_everything():
    assert [f for f in sources() if f.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def sources() -> list[Path]:
    """Every Python file of the project, tests included, environments and runs left out."""
    tops = [
        d
        for d in ROOT.iterdir()
        if d.is_dir() and not d.name.startswith(".") and d.name not in {"runs", "data", "build"}
    ]
    return [*ROOT.glob("*.py"), *(file for top in tops for file in top.rglob("*.py"))]


def test_every_link_and_picture_of_the_readme_exists():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
        assert not missing, f"{page} links to {missing}"


def test_the_attack_of_the_contributing_guide_works_as_it_stands():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S)
    namespace: dict[str, Any] = {}
    exec(compile(textwrap.dedent(block), "CONTRIBUTING.md", "exec"), namespace)
    attack = namespace["MyAttack"](epsilon=0.5, samples=4)
    victim, images = Logging(random_linear(3, 16)), torch.full((6, 1, 4, 4), 0.5)
    labels = victim.model(images).argmax(1)
    result = attack(ScoreOracle(victim), images, labels, budget=10, seed=0)
    assert attack.request == 4 and int(result.queries.max()) <= 10 and victim.seen == int(result.queries.sum())
    # Corners of the ball: from 0.5 every pixel goes to 0 or to 1.
    assert result.success.any() and bool(result.adversarial[result.success].frac().eq(0).all())
    with pytest.raises(ValueError, match=r"samples >= 1, got 0\.1 and 0"):
        namespace["MyAttack"](samples=0)


def test_every_config_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()
    named = set(re.findall(r"configs/[\w/]+\.yaml", text))
    assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []
