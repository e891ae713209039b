"""reproduce.py: what runs, what does not, and what a kill leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from filelock import FileLock

from cli import AttackCLI, plain_messages
from experiments.loading import load_experiment
from experiments.plan import PRODUCTS, ROOT, Plan, finished, make_plan
from experiments.workflow import check_data, reproduce
from tests.experiments.stubs import WHOLE, until
from tests.experiments.tiny import CHEAP, tiny, written
from tests.runs import QUIET, digits_checkpoint, run
from zeroth.records import merge_records


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
    assert (
        "4 of 4 stages to run; queries: at most 2,400; query time on 2 CPU cores: at most 1 min; not counted: vi"
        in told
    )
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


@pytest.mark.parametrize("option", ["runs", "results"])
def test_a_folder_that_takes_no_file_is_told_before_any_stage(tmp_path, option):
    file, taken = written(tmp_path), tmp_path / "taken"
    taken.touch()
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results", option: taken / "below"}
    words = [str(word) for name, place in places.items() for word in (f"--{name}", place)]
    told = rf"--{option} {taken}/below: {taken} takes no file \(Not a directory\): name a folder that you may write to"
    with pytest.raises(ValueError, match=told):
        reproduce([str(file), "--scale", "digits", *words])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["paper", "taken"]


def test_a_split_that_is_too_small_stops_before_any_stage(tmp_path):
    stages = tiny()["stages"]
    stages["nes"]["options"]["images.count"] = 3000
    file = written(tmp_path, stages=stages)
    with pytest.raises(ValueError, match=rf"{file}: stages.nes: images\.count 3000 .* of the \d+ in split 'test'"):
        check_data(make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs"))


def test_a_second_start_of_the_same_experiment_is_refused(tmp_path):
    file, runs = written(tmp_path), tmp_path / "runs"
    plan = planned(file, runs)
    plan.place.parent.mkdir()
    with FileLock(plan.place.with_suffix(".lock")), pytest.raises(ValueError, match=r"another reproduce\.py is at"):
        reproduce([str(file), "--scale", "digits", "--runs", str(runs), "--results", str(tmp_path / "results")])


def test_a_second_start_runs_what_a_changed_config_moved_and_what_follows(tmp_path, monkeypatch):
    """Real starts, plans and workflows; each program only writes down the name of its run."""
    log, published = tmp_path / "log", []
    code = (
        "import os, sys; root, name, *made = sys.argv[1:];"
        f"open({str(log)!r}, 'a').write(name.rpartition('-')[0] + ' ');"
        "files = [os.path.join(root, name, file) for file in made];"
        f"[(os.makedirs(os.path.dirname(file), exist_ok=True), open(file, 'w').write({WHOLE!r})) for file in files]"
    )

    def command(stage, before, run) -> list[str]:
        root = str(Path(run["run.root"]) / {"train": "train-victim"}.get(stage.job, stage.job))
        return [sys.executable, "-S", "-c", code, root, run["run.name"], *PRODUCTS[stage.job]]

    monkeypatch.setattr("experiments.plan._command", command)
    monkeypatch.setattr(
        "experiments.publish.publish", lambda experiment, plan, results: published.append(1) or tmp_path
    )

    def started(**options) -> list[str]:
        tune = {"attack": "configs/attack/zo_ngd.yaml", "trials": 2, "images.count": 5, **options}
        stages = tiny()["stages"] | {
            "tune": {"job": "tune", "victim": "victim", "options": tune},
            "tuned": {"job": "attack", "victim": "victim", "tuned": "tune"},
        }
        file = written(tmp_path, stages=stages)
        log.write_text("")
        reproduce([str(file), "--scale", "digits", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        return log.read_text().split()

    first = started()
    assert sorted(first) == ["digits", "nes", "sure", "tune", "tuned", "zo"]
    assert first[0] == "digits" and first.index("tune") < first.index("tuned")
    assert started(trials=3) == ["tune", "tuned"]
    assert started() == [] and len(published) == 3  # the old ones are there still


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.yaml", "--scale", "huge"], "scale: expected one of 'digits', 'mnist', 'paper', got huge"),
        (["x.yaml", "--job", "2"], "unknown option --job 2: did you mean --jobs?"),
        (["x.yaml"], "experiment x.yaml does not exist: give a file of configs/experiment/<paper>/"),
        ([], "EXPERIMENT is required; --help tells more"),
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
    assert CHEAP["batch_size"] <= len(kept) < 8 and not finished(nes.folder, nes.job)

    os.environ["WANDB_MODE"] = "disabled"
    try:
        reproduce([*words, "--shards", "2", "--jobs", "2"])
    finally:
        os.environ["WANDB_MODE"] = "offline"
    undisturbed = run(AttackCLI, *nes.commands[0][2:], "--run.root", tmp_path / "other", *QUIET)
    pd.testing.assert_frame_equal(rows(nes.folder), rows(undisturbed.folder))
    pd.testing.assert_frame_equal(rows(nes.folder).iloc[: len(kept)], kept)
    assert json.loads((nes.folder / "report.json").read_text())["complete"] is True
    assert finished(nes.folder, nes.job) and not (nes.folder / "done").exists()
    assert (tmp_path / "results" / "paper" / "table" / "digits" / "nes.json").is_file()
