"""Kills, full disks and several ranks: what is on disk afterwards is what one undisturbed process writes."""

import errno
import os
import re

import pandas as pd
import pytest

from cli import AttackCLI, CertifyCLI, TrainCLI
from tests.runs import QUIET, asked, counted, run, start
from zeroth.records import RecordFile, merge_records

OUT_OF_REACH = ("--attack", "NESPGD", "--attack.epsilon", "0.001")  # every image spends its whole budget
IN_REACH = ("--attack", "ZONGD", "--attack.epsilon", "0.3")


def rows(folder, kind="attack") -> pd.DataFrame:
    return merge_records(folder, kind).drop(columns=["seconds", "time"], errors="ignore")


@pytest.fixture
def undisturbed(tmp_path):
    """Run a command start to end; gives its rows and how many images its victim was asked."""

    def go(command, *words):
        log = tmp_path / "undisturbed" / "log"
        log.parent.mkdir()
        cli = run(command, *counted(log), *words)
        return rows(cli.folder, cli.writer.header.kind), asked(log)

    return go


@pytest.mark.parametrize(
    ("attack", "batch_size", "share"),
    [(IN_REACH, 10, 0.6), (OUT_OF_REACH, 30, 0.8)],
    ids=["between batches", "all end together"],
)
def test_a_killed_attack_goes_on(tmp_path, undisturbed, attack, batch_size, share, monkeypatch):
    words = [*attack, "--images.count", "30", "--batch_size", str(batch_size), "--budget", "300"]
    expected, total = undisturbed(AttackCLI, *words)
    log = tmp_path / "log"
    words += [*counted(log, kill_after=int(share * total)), "--run.name", "killed"]
    killed = start("attack.py", *words, KILL="1")
    assert killed.returncode == -9, killed.stderr
    before = asked(log)
    assert total * share - 128 <= before <= total * share
    cli = run(AttackCLI, *words)
    assert asked(log) == total  # the journal answered the rest
    pd.testing.assert_frame_equal(rows(cli.folder), expected)
    assert not list((cli.folder / "journal").iterdir())
    run(AttackCLI, *words)  # a finished run asks nothing
    assert asked(log) == total


def test_a_killed_certification_goes_on(tmp_path, undisturbed):
    words = ["--certify.n", "500", "--certify.n0", "50", "--images.count", "12", "--batch_size", "3"]
    expected, total = undisturbed(CertifyCLI, *words)
    assert total == 12 * 550
    log = tmp_path / "log"
    words += [*counted(log, kill_after=5000), "--run.name", "killed"]
    killed = start("certify.py", *words, KILL="1")
    assert killed.returncode == -9, killed.stderr
    before = asked(log)
    done = len(rows(tmp_path / "certify" / "killed", "certificate"))
    assert done == 9  # three whole batches of 3 x 550 = 1,650 images
    cli = run(CertifyCLI, *words)
    assert asked(log) - before == (12 - done) * 550
    pd.testing.assert_frame_equal(rows(cli.folder, "certificate"), expected)


def test_a_full_disk_is_told_and_costs_no_query(tmp_path, undisturbed, monkeypatch, capsys):
    words = [*IN_REACH, "--images.count", "30", "--batch_size", "10", "--budget", "300"]
    expected, total = undisturbed(AttackCLI, *words)
    log, write, left = tmp_path / "log", RecordFile.append, iter(range(14))

    def append(self, record):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, f"{self.path} could not be written ({os.strerror(errno.ENOSPC)})")
        return write(self, record)

    monkeypatch.setattr(RecordFile, "append", append)
    words += [*counted(log), "--run.name", "full"]
    with pytest.raises(SystemExit) as end:
        run(AttackCLI, *words)
    assert end.value.code == 1
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    folder, before = tmp_path / "attack" / "full", asked(log)
    assert len(rows(folder)) == 14
    monkeypatch.undo()
    run(AttackCLI, *words)
    pd.testing.assert_frame_equal(rows(folder), expected)
    # The half-recorded batch was finished: its journal answers it. Only the third batch is asked.
    assert asked(log) == total > before


def test_a_victim_that_fails_keeps_the_rows_so_far(tmp_path, capsys, monkeypatch):
    from tests.runs import Counted

    log, forward = tmp_path / "log", Counted.forward
    words = [
        *IN_REACH,
        "--images.count",
        "30",
        "--batch_size",
        "10",
        "--budget",
        "100",
        *counted(log),
        "--run.name",
        "nan",
    ]

    def failing(self, images):
        scores = forward(self, images)
        return scores * float("nan") if asked(log) > 800 else scores

    monkeypatch.setattr(Counted, "forward", failing)
    with pytest.raises(SystemExit) as end:
        run(AttackCLI, *words)
    assert end.value.code == 1
    assert re.search(r"victim Counted returned NaN scores for \d+ of", capsys.readouterr().err.splitlines()[-1])
    assert len(rows(tmp_path / "attack" / "nan")) in (10, 20)


def test_two_ranks_write_the_rows_of_one(tmp_path, undisturbed):
    words = [*IN_REACH, "--images.count", "25", "--batch_size", "5", "--budget", "100"]
    expected, total = undisturbed(AttackCLI, *words)
    log = tmp_path / "log"
    words += [*counted(log), "--run.name", "two", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    both = start("attack.py", *words)
    assert both.returncode == 0, both.stderr
    folder = tmp_path / "attack" / "two"
    pd.testing.assert_frame_equal(rows(folder), expected)
    assert asked(log) == total
    # Batches 0, 2, 4 belong to rank 0, batches 1, 3 to rank 1: nothing is padded or repeated.
    assert [len(merge_records([folder / f"attack{rank}.jsonl"])) for rank in ("", ".rank1")] == [15, 10]
    assert "25 of 25" not in both.stdout and '"complete": true' in (folder / "report.json").read_text()


def test_shards_of_one_folder_make_one_report(tmp_path, undisturbed):
    words = [*IN_REACH, "--images.count", "15", "--batch_size", "4", "--budget", "100"]
    expected, _ = undisturbed(AttackCLI, *words)
    words += [*counted(tmp_path / "log"), "--run.name", "shards"]
    for shard, complete in (("2/2", False), ("1/2", True)):
        cli = run(AttackCLI, *words, "--shard", shard)
        assert f'"complete": {str(complete).lower()}' in (cli.folder / "report.json").read_text()
    pd.testing.assert_frame_equal(rows(cli.folder), expected)


def test_a_cap_on_all_queries_holds_over_a_restart(tmp_path, monkeypatch):
    words = [*OUT_OF_REACH, "--images.count", "30", "--batch_size", "10", "--budget", "50", "--total_queries", "1234"]
    log = tmp_path / "log"
    words += [*counted(log), "--run.name", "cap"]
    whole = run(AttackCLI, *words)
    expected = rows(whole.folder)
    assert int(expected["queries"].sum()) == asked(log) <= 1234
    assert set(expected["fail_reason"]) >= {"total_budget"}
    # As after a kill behind the second batch.
    lines = (whole.folder / "attack.jsonl").read_text().splitlines(keepends=True)
    (whole.folder / "attack.jsonl").write_text("".join(lines[:21]))
    run(AttackCLI, *words)
    pd.testing.assert_frame_equal(rows(whole.folder), expected)


def test_a_killed_training_goes_on_at_its_last_epoch(tmp_path):
    words = ["--trainer.max_epochs", "3", "--run.root", tmp_path, *QUIET]

    def stop(trainer, module):
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")

    first = TrainCLI(list(map(str, words)))
    steps = []
    module = type(first.model)
    first.trainer.callbacks[0].on_train_epoch_start = stop  # in the second epoch
    with pytest.raises(RuntimeError, match="killed"):
        first.train()
    second = TrainCLI(list(map(str, words)))
    assert type(second.model) is module
    second.trainer.callbacks[0].on_train_epoch_start = lambda trainer, module: steps.append(
        (trainer.current_epoch, trainer.global_step)
    )
    second.train()
    assert steps == [(1, 19), (2, 38)]  # 1,200 images in batches of 64: 19 steps an epoch
