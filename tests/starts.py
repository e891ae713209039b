"""Scripts in processes of their own, forked off one that has loaded their libraries, which takes longer than to run."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.runs import ROOT

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["cli"])  # starts no threads and asks no GPU, so that its children can
LIMIT = 300  # seconds


def start(script: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script to its end, however it ends; ``stdout`` and ``stderr`` are what it wrote."""
    command = [str(ROOT / script), *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_become, args=(command, settings, written))
        process.start()
        try:
            process.join(LIMIT)
        finally:
            if late := process.exitcode is None:
                process.kill()
                process.join()
        if late:
            raise subprocess.TimeoutExpired(command, LIMIT)
        texts = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in written]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _become(command: Sequence[str], settings: Mapping[str, str], written: Sequence[Path]) -> None:
    """Turn this process into a script's."""
    import torch

    torch.set_num_threads(int(settings["OMP_NUM_THREADS"]))  # read from the environment at import, which was before
    os.environ.clear()
    os.environ.update(settings)
    os.chdir(ROOT)
    for standard, path in enumerate(written, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, standard)
        os.close(file)
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))  # as Python does for a script
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without
