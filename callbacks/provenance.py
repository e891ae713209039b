"""Which code, on which machine, made a result: the commit of the source tree, the hardware, the libraries."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scipy", "statsmodels", "optuna", "zeroth")
CPUINFO = Path("/proc/cpuinfo")
# Files that make a difference although git does not track them yet, anywhere in the tree of the sources. Others, such
# as runs, data and notes, do not.
SOURCES = (":(top)*.py", ":(top)configs/*.yaml")
GIT_PATIENCE = 10  # seconds; a run must not wait for a disk that does not answer
# What two starts must share to count as one: the command and the date say nothing about where a number comes from.
SAME = ("commit", "hardware", "versions", "python")
START_KEYS = (*SAME, "command", "started")


def describe_start() -> dict[str, Any]:
    """Describe this start of a program.

    Returns:
        ``commit`` (see :func:`commit_of`), ``hardware`` (see :func:`describe_hardware`), ``versions`` of the libraries
        (None where one is not installed), ``python``, ``command`` (words) and ``started``, ISO 8601 in UTC.
    """
    return {
        "commit": commit_of(Path(__file__).parent),
        "hardware": describe_hardware(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def add_start(starts: list[dict[str, Any]], start: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the starts of a run with this one, unless one with the same code, libraries and hardware is among them."""
    known = any(all(told.get(key) == start[key] for key in SAME) for told in starts)
    return starts if known else [*starts, start]


def commit_of(folder: Path) -> str | None:
    """Return the git commit (hex) of a folder of sources, with "+changes" where its tree differs.

    A tree differs by files that git tracks, and by sources that it does not track or ignore.

    None outside a repository, without git, and for a folder of which the repository around it tracks nothing: an
    installed copy may lie inside the repository of somebody else's project.
    """
    if not _git(folder, "ls-files", "."):
        return None
    # No tag can match, so the answer is the whole hash: one call tells the commit and whether the tree is clean.
    commit = _git(folder, "describe", "--always", "--abbrev=64", "--exclude=*", "--dirty=+changes")
    if commit and not commit.endswith("+changes"):
        untracked = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
        commit += "+changes" if untracked else ""
    return commit


def describe_hardware() -> dict[str, Any]:
    """Describe the machine: name of the ``processor``, logical ``cores``, ``memory_gib``, names of the ``gpus``."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "gpus": [torch.cuda.get_device_name(number) for number in gpus],
    }


def _git(folder: Path, *words: str) -> str | None:
    """Ask git about a folder; None where it fails."""
    # GIT_DIR and its like, set inside git's hooks, would name another repository; looking must not lock.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str | None:
    # platform.processor() is empty on most Linux systems, and uname's word for the architecture on the others.
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine() or None


def _memory() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, other systems not all of its names
        return None
    return round(size / 2**30, 1) if size > 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
