"""The processes of a run: ranks end with their leader, an evaluation at once when terminated, reports one at a time."""

import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Process id of rank 0, for the ranks that Lightning starts from it.
LEADER = "ZEROTH_LEADER"


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, kill -9 included; Linux only.

    Args:
        parent: process id of the parent. If it has died already, this process is killed now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late for the kernel to tell
            os.kill(os.getpid(), signal.SIGKILL)


def tie_ranks() -> None:
    """Have the ranks that Lightning starts die with rank 0; called in each of them before the trainer is built.

    A rank that lived on would keep its record file locked and wait for the others for ever. Ranks that torchrun or
    SLURM have started are for those to end.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[LEADER] = str(os.getpid())
    elif LEADER in os.environ:
        die_with_parent(int(os.environ[LEADER]))


class EndWhenTerminated(Callback):
    """Ends an evaluation at SIGTERM, which Lightning only takes note of outside a training.

    At once, in the middle of a batch: rows are on disk, and the journal answers again what has been asked. Lightning's
    own handler is replaced, because it waits for all ranks to meet. The trainer gives the earlier one back at its end.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM over; by now Lightning has put its own handler in."""
        if threading.current_thread() is not threading.main_thread():
            return  # neither Lightning nor anybody else may set one here

        def end(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_IGN)  # ranks may be told twice, by their group and by their leader
            if (launcher := trainer.strategy.launcher) is not None:
                launcher.kill(number)
            raise SIGTERMException(128 + number)

        signal.signal(signal.SIGTERM, end)


@contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file, which ends with the process; where the file system has no locks, warn and go on.

    Args:
        path: the file, which is made and stays; its folder must be there.
        timeout: seconds to wait for another process that holds it, -1 without end.

    Raises:
        Timeout: another process still holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # the rule of record files, see zeroth/records/store.py
        warnings.warn(
            f"{path} cannot be locked ({error}), so nothing keeps a second process out: start each command once",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()
