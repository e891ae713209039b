"""A record file has one writer: real second processes, killed ones, their children, systems without locks."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tests.records.examples import found, header
from zeroth.records import RecordFile, read_records, record_path

WRITER = """
import os, sys, time
from tests.records.examples import found, header
from zeroth.records import RecordFile

file = RecordFile(sys.argv[1], header())
file.append(found(0))
child = os.fork() if "fork" in sys.argv else 0  # as a data loader makes its workers
if child == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="locks and forks as POSIX has them")


def another_process(path, *words):
    """A second process that holds the file open, and its id; the id of its child where it is to fork."""
    command = [sys.executable, "-c", WRITER, str(path), *words]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})
    return writer, int(writer.stdout.readline())


@POSIX
def test_a_file_that_another_process_writes_is_refused_until_that_is_killed(tmp_path):
    path = tmp_path / "attack.jsonl"
    writer, _ = another_process(path)
    try:
        before = path.read_bytes()
        with pytest.raises(BlockingIOError) as caught:
            RecordFile(path, header())
        assert caught.value.strerror == (
            f"{path} is taken: another process is writing it. Wait for it or end it, then start the same command again"
        )
        assert path.read_bytes() == before
        assert len(read_records(path)[1]) == 1  # readers are let in
        with RecordFile(record_path(tmp_path, "attack", rank=1), header()) as other:  # so are other ranks
            assert other.append(found(1))
    finally:
        writer.kill()  # SIGKILL: nothing of the process can tidy up
        writer.communicate()
    with RecordFile(path, header()) as file:
        assert file.done == {0}
        assert file.append(found(1))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["attack.jsonl", "attack.rank1.jsonl"]


@POSIX
def test_the_lock_does_not_live_on_in_a_killed_writers_children(tmp_path):
    path = tmp_path / "attack.jsonl"
    writer, child = another_process(path, "fork")
    try:
        with pytest.raises(BlockingIOError):
            RecordFile(path, header())
        writer.kill()
        writer.wait()
        os.kill(child, 0)  # it is there still
        with RecordFile(path, header()) as file:
            assert file.done == {0}
    finally:
        writer.kill()
        os.kill(child, signal.SIGKILL)
        writer.communicate()


@POSIX
def test_a_fork_leaves_the_lock_with_its_parent(tmp_path):
    path = tmp_path / "attack.jsonl"
    with RecordFile(path, header()) as file:
        command = [sys.executable, "-c", WRITER, str(path)]
        refused = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": "."}}
        if (child := os.fork()) == 0:
            os._exit(0)  # it has closed its copy by now
        os.waitpid(child, 0)
        done = subprocess.run(command, **refused)
        assert done.returncode == 1 and "BlockingIOError" in done.stderr
        assert file.append(found(0))
    assert read_records(path)[1]["index"].tolist() == [0]


@POSIX
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_written(tmp_path, monkeypatch, number):
    import fcntl

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match="attack.jsonl cannot be locked .* nothing keeps a second process") as told,
        RecordFile(tmp_path / "attack.jsonl", header()) as file,
    ):
        assert file.append(found(0))
    assert told[0].filename == __file__
    assert len(read_records(tmp_path / "attack.jsonl")[1]) == 1


def test_a_system_without_locks_writes_as_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("zeroth.records.store.fcntl", None)
    with RecordFile(tmp_path / "attack.jsonl", header()) as one, RecordFile(one.path, header()) as two:
        assert one.append(found(0)) and two.append(found(1))
