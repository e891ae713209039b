"""reproduce.py and its workflow: what runs, what does not, and what a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
from filelock import FileLock

from cli import AttackCLI, plain_messages
from experiments.loading import load_experiment
from experiments.plan import ROOT, Plan, PlannedStage, finished, make_plan
from experiments.workflow import check_data, reproduce, run_stages
from tests.experiments.tiny import CHEAP, tiny, written
from tests.runs import QUIET, digits_checkpoint, run
from zeroth.records import merge_records

PARENTS = {"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Stub:
    """A plan whose stages are small programs: each appends its name to a log; a stage's hash is in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.codes = {name: f"open({str(self.log)!r}, 'a').write({name!r})" for name in PARENTS}
        self.versions = dict.fromkeys(PARENTS, 1)

    def plan(self, cut: str | None = None) -> Plan:
        """Make the plan anew; ``cut`` names a stage in two shards."""
        stages = []
        for name, parents in PARENTS.items():
            ours = [name, *parents, *(p for parent in parents for p in PARENTS[parent])]
            place = self.folder / "attack" / f"{name}-{'-'.join(str(self.versions[one]) for one in ours)}"
            parts = [".1of2", ".2of2"] if name == cut else [""]
            stages.append(
                PlannedStage(
                    name=name,
                    job="attack",
                    folder=place,
                    hash="",
                    commands=[[sys.executable, "-S", "-c", self.codes[name]] for _ in parts],
                    parents=parents,
                    markers=[place / f"done{part}" for part in parts],
                    done=finished(place),
                )
            )
        return Plan("paper/stub", self.folder / "stub.yaml", "digits", self.folder, stages)

    def run(self, **options) -> str:
        """Run what is left; returns what was appended to the log."""
        self.log.write_text("")
        run_stages(self.plan(options.pop("cut", None)), **{"jobs": 1, "gpus": 0, **options})
        return self.log.read_text()


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


def test_shards_are_commands_of_their_own_and_children_wait_for_both(stub):
    assert stub.run(cut="a", jobs=2).startswith("aa")
    assert (stub.plan().stages[0].folder / "done.2of2").is_file()
    assert all(stage.done for stage in stub.plan().stages)


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
    assert (stub.folder / "rows").is_file() and not finished(stub.plan().stages[1].folder)
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


def planned(file: Path, runs: Path) -> Plan:
    """The plan of a file, its victim trained already."""
    plan = make_plan(load_experiment(file, "digits"), "digits", file=file, runs=runs)
    victim = plan.stages[0]
    (victim.folder / "checkpoints").mkdir(parents=True)
    for name in ("lineage.json", "checkpoints/best.ckpt"):
        (victim.folder / name).write_bytes((digits_checkpoint().parents[1] / name).read_bytes())
    (victim.folder / "done").touch()
    return plan


def test_a_dry_run_asks_nothing_and_leaves_no_file(tmp_path, capsys):
    file = written(tmp_path)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    reproduce([str(file), "--scale", "digits", *places, "--dry-run"])
    told = capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["paper"] and list(file.parent.iterdir()) == [file]
    cells = {line.split()[0]: line for line in told.splitlines() if line.strip()}
    assert "to run" in cells["victim"] and "at most 720" in cells["zo"]
    assert "1,200" in cells["sure"] and "at most" not in cells["sure"]  # counted exactly
    assert "4 of 4 stages to run; queries: at most 2,400; time on 2 CPU cores: at most 1 min; not counted: vi" in told
    planned(file, tmp_path / "runs")
    reproduce([str(file), "--scale", "digits", *places, "--dry-run"])
    assert "3 of 4 stages to run" in capsys.readouterr().out


def test_a_missing_dataset_stops_before_any_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ZEROTH_DATA", str(tmp_path / "empty"))
    stages = tiny()["stages"]
    stages["victim"]["options"] |= {"config": "configs/victim/mnist_cw.yaml", "data.download": False}
    file = written(tmp_path, stages=stages)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit) as end, plain_messages():
        reproduce([str(file), "--scale", "digits", *places])
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and f"error: MNIST is not under {tmp_path / 'empty'} and download is off" in last
    assert "ZEROTH_DATA" in last and [path.name for path in tmp_path.iterdir()] == ["paper"]


def test_a_split_that_is_too_small_stops_before_any_stage(tmp_path):
    stages = tiny()["stages"]
    stages["nes"]["options"]["images.count"] = 3000
    file = written(tmp_path, stages=stages)
    with pytest.raises(ValueError, match=r"stage nes: images\.count 3000 .* of the \d+ in split 'test'"):
        check_data(make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs"))


def test_a_second_start_of_the_same_experiment_is_refused(tmp_path):
    file, runs = written(tmp_path), tmp_path / "runs"
    plan = planned(file, runs)
    plan.place.parent.mkdir()
    with FileLock(plan.place.with_suffix(".lock")), pytest.raises(ValueError, match=r"another reproduce\.py is at"):
        reproduce([str(file), "--scale", "digits", "--runs", str(runs), "--results", str(tmp_path / "results")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.yaml", "--scale", "huge"], "scale: expected one of 'digits', 'mnist', 'paper', got huge"),
        (["x.yaml", "--job", "2"], "unknown option --job 2: did you mean --jobs?"),
        (["x.yaml"], "experiment x.yaml does not exist: give a file of configs/experiment/<paper>/"),
        (["x.yaml", "--jobs", "0"], "jobs must be at least 1, got 0"),
    ],
)
def test_wrong_words_are_told(words, message, capsys):
    with pytest.raises(SystemExit) as end, plain_messages():
        reproduce(words)
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def rows(folder: Path) -> pd.DataFrame:
    return merge_records(folder).drop(columns=["seconds", "time"], errors="ignore")


def test_a_killed_start_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    """kill -9 of reproduce.py in mid-stage ends the stage too; two shards then finish what it began."""
    # Out of reach: every image spends its whole budget, so that there is time to kill.
    options = {"attack": "NESPGD", "attack.epsilon": 0.001, "budget": 1500, "images.count": 8}
    stages = {"victim": tiny()["stages"]["victim"], "nes": {"job": "attack", "victim": "victim", "options": options}}
    file = written(tmp_path, stages=stages, rows=[{"method": "NES-PGD", "stage": "nes"}], pictures={})
    plan = planned(file, tmp_path / "runs")
    _, nes = plan.stages
    words = [str(file), "--scale", "digits", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    script = [sys.executable, str(ROOT / "reproduce.py"), *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    started = subprocess.Popen(script, env=settings, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    record = nes.folder / "attack.jsonl"
    until(lambda: record.is_file() and record.read_bytes().count(b"\n") > CHEAP["batch_size"])
    family = psutil.Process(started.pid).children(recursive=True)
    assert any("attack.py" in " ".join(process.cmdline()) for process in family)
    started.kill()
    started.wait()
    assert psutil.wait_procs(family, timeout=30)[1] == []
    kept = rows(nes.folder)
    assert CHEAP["batch_size"] <= len(kept) < 8 and not finished(nes.folder)

    os.environ["WANDB_MODE"] = "disabled"
    try:
        reproduce([*words, "--shards", "2", "--jobs", "2"])
    finally:
        os.environ["WANDB_MODE"] = "offline"
    undisturbed = run(AttackCLI, *nes.commands[0][2:], "--run.root", tmp_path / "other", *QUIET)
    pd.testing.assert_frame_equal(rows(nes.folder), rows(undisturbed.folder))
    pd.testing.assert_frame_equal(rows(nes.folder).iloc[: len(kept)], kept)
    assert json.loads((nes.folder / "report.json").read_text())["complete"] is True
    assert finished(nes.folder) and not (nes.folder / "done").exists()
    assert (tmp_path / "results" / "paper" / "table" / "digits" / "nes.json").is_file()
