"""Scripts in processes of their own, forked off one that has loaded their libraries, which takes longer than to run."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["cli"])  # computes nothing, so that its children can


def start(script: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script to its end, however it ends; ``stdout`` and ``stderr`` are what it wrote."""
    command = [str(ROOT / script), *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryDirectory() as folder:
        written = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_become, args=(command, settings, written))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, 300)
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
    runpy.run_path(command[0], run_name="__main__")
