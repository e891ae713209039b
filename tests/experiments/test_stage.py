"""Who may work in a stage's folder at the same time: the shards of one cut, each once."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from experiments import stage
from experiments.stage import share_folder


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def test_parts_of_one_cut_work_together_and_another_cut_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage, "PAUSE", 0.01)
    path = tmp_path / "stage.lock"
    first, second, whole = (opened(path) for _ in range(3))
    share_folder(first, "2", "stage a, shard 1 of 2")
    share_folder(second, "2", "stage a, shard 2 of 2")
    waiting = threading.Thread(target=share_folder, args=(whole, "1", "stage a"), daemon=True)
    waiting.start()
    os.close(first)  # the other shard is at work still
    waiting.join(0.2)
    assert waiting.is_alive() and path.read_text() == "2"
    os.close(second)
    waiting.join(10)
    assert not waiting.is_alive() and path.read_text() == "1"
    assert capsys.readouterr().out == "stage a: another process runs it in other parts, waiting for its end\n"
    third = opened(path)
    waiting = threading.Thread(target=share_folder, args=(third, "2", "stage a, shard 1 of 2"), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    os.close(whole)
    waiting.join(10)
    assert not waiting.is_alive() and path.read_text() == "2"
    os.close(third)


def test_many_that_start_together_agree_on_one_cut_at_a_time(tmp_path, monkeypatch):
    """Eight shards of eight and eight of nine: no two cuts ever hold the folder together."""
    monkeypatch.setattr(stage, "PAUSE", 0.001)
    path, holders, mixed, guard = tmp_path / "stage.lock", [], [], threading.Lock()

    def work(cut: str) -> None:
        lock = opened(path)
        share_folder(lock, cut, cut)
        with guard:
            holders.append(cut)
            mixed.append(len(set(holders)))
        with guard:
            holders.remove(cut)
        os.close(lock)

    workers = [threading.Thread(target=work, args=(str(8 + number % 2),)) for number in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert mixed == [1] * 16


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_stage_is_told_and_begun(number, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    begun = []
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "execv", lambda *words: begun.append(words))
    monkeypatch.setattr(stage.ctypes, "CDLL", lambda _: type("Kernel", (), {"prctl": lambda *_: 0}))
    told = {"name": "a", "job": "attack", "commands": [["x", "y"]], "markers": [str(tmp_path / "a" / "done")]}
    (tmp_path / "plan.json").write_text(json.dumps({"stages": [told]}))
    stage.main([str(tmp_path / "plan.json"), "a", "0"])
    assert begun == [("x", ["x", "y"])]
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("stage a cannot be locked (") and last == "stage a (attack)"
