"""Becomes the command of one stage: ``python experiments/stage.py PLAN STAGE PART``; started by the Snakefile.

No two processes do the same images of a stage at once: the locks are held by the command itself and fall with it,
however it ends. And the command does not outlive the workflow that started it, which on Linux the kernel sees to.

Light, for a job of a cluster starts it first: nothing of the project is imported, whose packages load torch or pandas.
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# EACCES is how some network file systems say EWOULDBLOCK.
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
PAUSE = 1  # seconds between two looks at a folder that is cut otherwise


def main(words: Sequence[str]) -> None:
    """Take the locks, then turn into the command; does not return."""
    plan, name, part = words
    stages = json.loads(Path(plan).read_text(encoding="utf-8"))["stages"]
    stage = next(stage for stage in stages if stage["name"] == name)
    command, marker = stage["commands"][int(part)], Path(stage["markers"][int(part)])
    if sys.platform == "linux":
        # As cli/processes.py. SIGKILL, because a process started in the background ignores SIGINT; stages bear it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(ROOT)
    whose = f"stage {name}{marker.suffix.replace('.', ', shard ').replace('of', ' of ')}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    folder, own = _opened(marker.with_name("stage.lock")), _opened(marker.with_name(f"{marker.name}.lock"))
    try:
        share_folder(folder, str(len(stage["commands"])), whose)
        take(own, whose)
    except OSError as error:  # the rule of record files, see zeroth/records/store.py
        print(f"{whose} cannot be locked ({error.strerror}), so nothing keeps a second process out: start it once")
    os.utime(own)  # tells when the command was last begun
    print(f"{whose} ({stage['job']})", flush=True)
    os.execv(command[0], command)


def share_folder(lock: int, cut: str, whose: str) -> None:
    """Share a stage's folder with the commands that cut its images into as many parts, and wait for all others to end.

    Those who work hold the lock of the file together, and the file says into how many parts they cut. Another number is
    written only by a process that holds the lock alone.
    """
    told = False
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)  # nobody holds it alone for longer than it takes to write
        if os.pread(lock, 16, 0).decode() == cut:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not told:
                print(f"{whose}: another process runs it in other parts, waiting for its end", flush=True)
            told = True
            time.sleep(PAUSE)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, cut.encode(), 0)


def take(lock: int, whose: str) -> None:
    """Hold a lock alone, waiting for another process that has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        print(f"{whose}: another process runs it, waiting for its end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _opened(path: Path) -> int:
    """Open a file whose locks stay with this process across exec."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)
    return lock


if __name__ == "__main__":
    main(sys.argv[1:])
