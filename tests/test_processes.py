"""How runs end: ranks with their killed leader, evaluations at SIGTERM; and what is locked meanwhile."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock, Timeout

from cli import AttackCLI
from cli.processes import die_with_parent, locked
from tests.runs import ROOT, asked, counted, run
from zeroth.records import RecordFile, merge_records, read_records

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends them")
# Out of reach: every image spends its whole budget, so that there is time to end the run.
BUDGET, IMAGES = 3000, 4
HARD = ("--attack", "NESPGD", "--attack.epsilon", "0.001", "--budget", str(BUDGET), "--images.count", str(IMAGES))
WORDS = (*HARD, "--batch_size", "2", "--run.name", "hard", "--trainer.accelerator", "cpu")


def begin(log: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "attack.py"), *WORDS, *counted(log), *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=settings, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def until_asked(log: Path, images: int) -> None:
    end = time.monotonic() + 120
    while asked(log) < images:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@LINUX
@pytest.mark.slow
def test_a_rank_dies_with_its_leader_and_leaves_no_lock(tmp_path):
    leader = begin(tmp_path / "log", "--trainer.devices", "2")
    until_asked(tmp_path / "log", 500)
    (record,) = (tmp_path / "attack" / "hard").glob("attack.rank1.jsonl")
    header = read_records(record)[0]
    with pytest.raises(BlockingIOError, match="another process is writing it"):
        RecordFile(record, header)
    ranks = psutil.Process(leader.pid).children(recursive=True)
    assert any("attack.py" in " ".join(rank.cmdline()) for rank in ranks)
    leader.kill()
    leader.communicate()
    assert psutil.wait_procs(ranks, timeout=20)[1] == []
    RecordFile(record, header).close()


@LINUX
def test_one_whose_parent_is_dead_already_is_killed():
    if (child := os.fork()) == 0:
        die_with_parent(os.getppid())  # alive: nothing happens
        die_with_parent(1 << 30)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_sigterm_ends_an_attack_in_mid_batch_and_the_same_command_goes_on(tmp_path):
    log = tmp_path / "log"
    process = begin(log)
    until_asked(log, 500)
    began = time.monotonic()
    process.terminate()
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and time.monotonic() - began < 20
    assert told.splitlines()[-1] == "attack.py: error: stopped; the same command goes on from here"
    before = asked(log)
    assert before < IMAGES * BUDGET
    folder = run(AttackCLI, *WORDS, *counted(log)).folder
    assert json.loads((folder / "report.json").read_text())["complete"] is True
    assert merge_records(folder)["queries"].tolist() == [BUDGET] * IMAGES
    # The request in flight alone may have been asked twice: at most the chunk of a step of two images.
    assert 0 <= asked(log) - IMAGES * BUDGET <= 256


def test_a_lock_is_had_by_one_and_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    path = tmp_path / "x.lock"
    with locked(path), pytest.raises(Timeout), locked(path, timeout=0):
        pass
    with locked(path, timeout=0):
        pass

    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    entered = False
    with pytest.warns(UserWarning, match=r"x\.lock cannot be locked .* start each command once"), locked(path):
        entered = True
    assert entered
