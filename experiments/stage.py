"""Becomes the command of one stage: ``python experiments/stage.py PLAN STAGE PART``; started by the Snakefile.

Two processes never work on one stage: the lock is held by the command itself and falls with it, however it ends. And
the command does not outlive the workflow that started it, which on Linux the kernel sees to.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(words: Sequence[str]) -> None:
    """Take the lock, then turn into the command; does not return."""
    plan, name, part = words
    stages = json.loads(Path(plan).read_text(encoding="utf-8"))["stages"]
    stage = next(stage for stage in stages if stage["name"] == name)
    command, marker = stage["commands"][int(part)], Path(stage["markers"][int(part)])
    die_with_parent()
    os.chdir(ROOT)
    whose = f"stage {name}{marker.suffix.replace('.', ', shard ').replace('of', ' of ')}"
    take_lock(marker.with_name(f"{marker.name}.lock"), whose)
    print(f"{whose} ({stage['job']})", flush=True)
    os.execv(command[0], command)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, kill -9 included; Linux only.

    SIGKILL, because a process started in the background ignores SIGINT; every stage goes on after a kill.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_lock(path: Path, whose: str) -> None:
    """Take a lock that stays with this process across exec, waiting for another process that has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{whose}: another process runs it, waiting for its end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.utime(lock)  # tells when the stage was last begun


if __name__ == "__main__":
    main(sys.argv[1:])
