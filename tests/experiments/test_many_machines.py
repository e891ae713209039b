"""One process, two shards on machines of their own, two ranks (gloo): the same rows, the same table."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cli import AttackCLI, CertifyCLI
from experiments.cells import START
from experiments.loading import load_experiment
from experiments.plan import Plan, finished, make_plan
from experiments.publish import publish
from tests.experiments.tiny import tiny, written
from tests.runs import QUIET, digits_checkpoint, run
from tests.starts import start
from zeroth.records import attack_summary, certificate_summary, merge_records

CPU = {"trainer.accelerator": "cpu"}
EACH = pytest.mark.parametrize("stage", ["zo", "sure"])


def planned(folder: Path, stage: str, **options) -> Plan:
    """A table of one line, on a machine of its own: its runs lie in ``folder``. The victim has been trained."""
    stages = {name: tiny()["stages"][name] for name in ("victim", stage)}
    stages[stage]["options"] |= CPU
    kind = {"zo": "attack", "sure": "certificate"}[stage]
    folder.mkdir(parents=True, exist_ok=True)
    changes = {"rows": [{"method": "ours", "stage": stage}], "radii": [0, 0.1, 0.3]}
    pictures = {"curve": {"kind": {"zo": "success", "sure": "certified"}[stage]}}
    file = written(folder, kind=kind, stages=stages, pictures=pictures, **changes)
    plan = make_plan(load_experiment(file, "digits"), "digits", file=file, runs=folder / "runs", **options)
    victim = plan.stages[0].folder
    if not victim.exists():
        shutil.copytree(digits_checkpoint().parents[1], victim)
        (victim / "done").touch()
    return plan


def obey(plan: Plan, part: int = 0) -> None:
    """Run a command of the table's last stage, as the workflow does."""
    _, script, *words = plan.stages[-1].commands[part]
    run({"attack.py": AttackCLI, "certify.py": CertifyCLI}[script], *words, *QUIET)
    plan.stages[-1].markers[part].touch()


def rows(plan: Plan) -> pd.DataFrame:
    return merge_records(plan.stages[-1].folder).drop(columns=["seconds", "time"], errors="ignore")


def published(plan: Plan) -> tuple[dict[str, bytes], dict]:
    """The pages of the table and the points of its picture, and its cell without what tells of machine and hour."""
    folder = publish(load_experiment(plan.file, "digits"), plan, plan.runs.parent / "results")
    pages = {path.name: path.read_bytes() for path in folder.glob("*.md")}
    with Image.open(folder / "curve.png") as picture:  # the file itself also names the records that it was drawn from
        pages["curve.png"] = picture.tobytes()
    cell = json.loads((folder / f"{plan.stages[-1].name}.json").read_text())
    for key in (*START, "later_starts"):
        del cell[key]
    del cell["records"]["sha256"]  # the rows tell seconds
    return pages, cell


def check_same(one: Plan, many: Plan) -> None:
    assert one.stages[-1].folder.name == many.stages[-1].folder.name and one.runs != many.runs
    pd.testing.assert_frame_equal(rows(many), rows(one))
    if many.stages[-1].job == "attack":
        assert attack_summary(rows(many)) == attack_summary(rows(one))
    else:
        assert certificate_summary(rows(many), [0, 0.1]) == certificate_summary(rows(one), [0, 0.1])
    (pages, cell), (expected, expected_cell) = published(many), published(one)
    assert set(pages) == {"table.md", "README.md", "curve.png"} and pages == expected
    assert cell == expected_cell and cell["images"]["count"] == 12


@EACH
def test_two_shards_on_two_machines_make_the_table_of_one(stage, tmp_path):
    one, here, there = (planned(tmp_path / name, stage, shards=n) for name, n in (("a", 1), ("b", 2), ("c", 2)))
    obey(one)
    obey(here, 0)
    obey(there, 1)
    assert [len(rows(plan)) for plan in (one, here, there)] == [12, 6, 6]
    assert not set(rows(here).iloc[:, 0]) & set(rows(there).iloc[:, 0])
    with pytest.raises(ValueError, match=f"stage {stage} has 6 of 12 rows"):
        published(here)
    # What the README says: bring the folders together, nothing that is there is replaced.
    ours, theirs = here.stages[-1].folder, there.stages[-1].folder
    for path in theirs.rglob("*"):
        if path.is_file() and not (copy := ours / path.relative_to(theirs)).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    job = here.stages[-1].job
    assert finished(ours, job) and not finished(theirs, job)
    check_same(one, here)


@EACH
def test_two_processes_make_the_table_of_one(stage, tmp_path):
    one, two = planned(tmp_path / "a", stage), planned(tmp_path / "b", stage, devices=2)
    obey(one)
    _, script, *words = two.stages[-1].commands[0]
    assert words[-2:] == ["--trainer.devices", "2"]
    done = start(script, *words, *QUIET)
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in two.stages[-1].folder.glob("*rank1.*"))
    assert any(name.endswith((".jsonl", ".tsv")) for name in files)
    check_same(one, two)


@pytest.mark.parametrize(("tasks", "ours"), [(None, True), ("1", True), ("2", False)])
def test_who_starts_the_processes_in_a_slurm_job(tasks, ours, tmp_path, monkeypatch):
    """A job of one task, as the workflow asks for it, starts one a device; of more tasks, SLURM has started them."""
    plan = planned(tmp_path, "zo", devices=2)
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    if tasks is not None:
        told = {"SLURM_NTASKS": tasks, "SLURM_NTASKS_PER_NODE": tasks, "SLURM_NNODES": "1", "SLURM_JOB_NAME": "stage"}
        for name, value in (told | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).items():
            monkeypatch.setenv(name, value)
    cli = AttackCLI([*plan.stages[-1].commands[0][2:], *QUIET])
    assert cli.trainer.num_devices == cli.trainer.world_size == 2
    assert cli.trainer.strategy.cluster_environment.creates_processes_externally == (not ours)
