"""How the stages of a plan are run: in which order, on how many processors, and how they end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from experiments.plan import ROOT, finished
from experiments.workflow import made_elsewhere, run_stages, show_plan, threads_of
from tests.experiments.stubs import WHOLE, Stub, until


@pytest.fixture
def stub(tmp_path) -> Stub:
    return Stub(tmp_path)


def test_a_changed_stage_runs_again_with_what_follows_and_no_other(stub):
    assert stub.run() == "abcd"
    assert all(stage.done for stage in stub.plan().stages)
    os.utime(stub.plan().stages[0].markers[0])  # a parent that is newer is no reason
    stub.versions["b"] = 2
    assert stub.run() == "bc"
    stub.versions["b"] = 1
    assert all(stage.done for stage in stub.plan().stages)  # nothing old was lost


@pytest.mark.parametrize(("threads", "words", "expected"), [
    ("4", [], 4),
    ("4,2", ["--executor", "slurm"], 4),
    (None, [], 3),
    ("", ["--executor=slurm"], 1),
])  # fmt: skip
def test_the_processors_of_a_command(threads, words, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 13)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert threads_of(4, words) == expected


@pytest.mark.parametrize("threads", ["many", "0", "-1", ",2"])
def test_a_wrong_number_of_threads_is_told(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    with pytest.raises(ValueError, match=f"OMP_NUM_THREADS must be a number of threads from 1 on, got '{threads}'"):
        threads_of(1, [])


def test_a_command_asks_for_the_gpus_that_it_uses(stub, capfd):
    """Stage a spreads over two devices; the others have a use for one."""
    plan = stub.plan()
    plan.stages[0].commands[0] += ["--trainer.devices", "2"]
    run_stages(plan, jobs=1, gpus=2, words=["--dry-run", "--quiet", "host"])
    told = capfd.readouterr()
    wanted = [line.split("gpu=")[1][0] for line in (told.out + told.err).splitlines() if "gpu=" in line]
    assert sorted(wanted) == ["1", "1", "1", "2"]


def test_shards_are_commands_of_their_own_and_children_wait_for_both(stub):
    assert stub.run(cut="a", jobs=2).startswith("aa")
    assert (stub.plan().stages[0].folder / "done.2of2").is_file()
    assert all(stage.done for stage in stub.plan().stages)


@pytest.mark.parametrize("left", [None, "{", '{"complete": false}', "{}"])
def test_a_stage_that_is_marked_but_not_whole_runs_again(stub, left):
    assert stub.run() == "abcd"
    report = stub.plan().stages[1].folder / "report.json"
    report.unlink() if left is None else report.write_text(left)
    assert [stage.name for stage in stub.plan().stages if not stage.done] == ["b"]
    assert stub.run() == "b" and all(stage.done for stage in stub.plan().stages)


def test_a_failing_stage_is_named_and_its_files_stay(stub, capfd):
    whole = stub.codes["b"]
    stub.codes["b"] = f"open({str(stub.folder / 'rows')!r}, 'w').close(); 1 / 0"
    with pytest.raises(SystemExit) as end:
        stub.run()
    assert end.value.code == 1 and stub.log.read_text() == "a"
    told = capfd.readouterr().err.splitlines()
    assert told[-2].startswith(f"reproduce.py: error: stage b failed: {sys.executable} -S -c ")
    assert told[-1] == "When the cause is mended, the same command goes on from here."
    assert "ZeroDivisionError: division by zero" in told
    assert not any("stage c" in line or "stage d" in line for line in told)
    assert (stub.folder / "rows").is_file() and not finished(stub.plan().stages[1].folder, "attack")
    stub.codes["b"] = whole
    assert sorted(stub.run()) == ["b", "c", "d"]


def test_a_failure_of_the_engine_itself_is_told(stub, capfd):
    with pytest.raises(SystemExit) as end:
        stub.run(words=["no_such_rule"])
    told = capfd.readouterr().err
    assert end.value.code == 1 and "no_such_rule" in told
    assert "reproduce.py: error: Snakemake ended before any stage failed; -- --quiet host lets it say why" in told


def test_ctrl_c_stops_the_stage_and_the_same_command_goes_on(stub, capfd):
    whole = stub.codes["b"]
    stub.codes["b"] = f"import time; open({str(stub.folder / 'begun')!r}, 'w').close(); time.sleep(60)"

    def press() -> None:
        until((stub.folder / "begun").is_file)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    began = time.monotonic()
    with pytest.raises(SystemExit) as end:
        stub.run()
    assert end.value.code == 130 and time.monotonic() - began < 50
    assert capfd.readouterr().err.endswith("reproduce.py: stopped; the same command goes on from here\n")
    stub.codes["b"] = whole
    assert sorted(stub.run()) == ["b", "c", "d"]


def test_a_stage_that_does_not_listen_to_sigterm_is_killed(stub, monkeypatch):
    monkeypatch.setattr("experiments.workflow.GRACE", 1)
    begun = stub.folder / "begun"
    deaf = "import os, signal, time; signal.signal(15, signal.SIG_IGN)"
    stub.codes["a"] = f"{deaf}; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def press() -> None:
        until(lambda: begun.is_file() and begun.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=press).start()
    began = time.monotonic()
    with pytest.raises(SystemExit) as end:
        stub.run()
    assert end.value.code == 143 and time.monotonic() - began < 50
    until(lambda: not psutil.pid_exists(int(begun.read_text())), 10)


def test_stages_that_another_commit_made_are_told(stub, monkeypatch, capsys):
    plan = stub.plan()
    for stage, commit in zip(plan.stages, ("1" * 40, "2" * 40, "2" * 40 + "+changes", None), strict=True):
        stage.folder.mkdir(parents=True)
        (stage.folder / "lineage.json").write_text(json.dumps({"commit": commit}))
        (stage.folder / "report.json").write_text(WHOLE)
        (stage.folder / "done").touch()
    plan = stub.plan()
    for here, expected in (
        ("1" * 40, {"2" * 40: ["b"], "2" * 40 + "+changes": ["c"]}),
        ("2" * 40 + "+changes", {"1" * 40: ["a"]}),
        (None, {}),
    ):
        monkeypatch.setattr("experiments.workflow.commit_of", lambda _, here=here: here)
        assert made_elsewhere(plan) == expected
    monkeypatch.setattr("experiments.workflow.commit_of", lambda _: "2" * 40)
    show_plan(plan)
    assert f"made at {'1' * 40}, not the commit of this start: a\n" in capsys.readouterr().out


def test_a_stage_dies_with_what_started_it_and_is_never_run_twice_at_once(stub):
    """kill -9 of the parent ends the stage; a second process waits for the first, whose kill frees the lock."""
    begun = stub.folder / "begun"
    stub.codes["a"] = f"import os, time; open({str(begun)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    plan = stub.plan().write()
    command = [sys.executable, "-S", str(ROOT / "experiments" / "stage.py"), str(plan), "a", "0"]
    parent = f"import subprocess; subprocess.run({command!r})"
    first = subprocess.Popen([sys.executable, "-S", "-c", parent], stdout=subprocess.PIPE, text=True)
    until(lambda: begun.is_file() and begun.read_text())
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert second.stdout.readline() == "stage a: another process runs it, waiting for its end\n"
    (stage,) = (psutil.Process(int(pid)) for pid in begun.read_text().split())
    first.kill()
    assert stage.wait(timeout=30) is None
    assert second.stdout.readline() == "stage a (attack)\n"
    until(lambda: len(begun.read_text().split()) == 2)
    assert int(begun.read_text().split()[1]) == second.pid  # the runner turned into the command
    second.kill()
    second.wait()
