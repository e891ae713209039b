"""Kills, full disks and several ranks: what is on disk afterwards is what one undisturbed process writes."""

import errno
import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from cli import AttackCLI, CertifyCLI, TrainCLI
from tests.runs import QUIET, Counted, asked, counted, run
from tests.starts import start
from zeroth.records import file_sha256, merge_records, record_path

OUT_OF_REACH = ("--attack", "NESPGD", "--attack.epsilon", "0.001")  # every image spends its whole budget
IN_REACH = ("--attack", "ZONGD", "--attack.epsilon", "0.3")
EACH_JOB = pytest.mark.parametrize(
    ("command", "job"),
    [(AttackCLI, (*IN_REACH, "--budget", "100")), (CertifyCLI, ("--certify.n", "90", "--certify.n0", "10"))],
    ids=["attack", "certify"],
)


def rows(folder, kind=None) -> pd.DataFrame:
    return merge_records(folder, kind).drop(columns=["seconds", "time"], errors="ignore")


def failing(fault, log, after):
    """A forward of Counted that goes wrong once it has been asked more images than that."""
    forward = Counted.forward

    def answer(self, images):
        scores = forward(self, images)
        if asked(log) <= after:
            return scores
        return {"NaN": scores * float("nan"), "a wrong shape": scores[:, :4]}[fault]

    return answer


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
    assert not (cli.folder / "journal").exists()
    run(AttackCLI, *words)  # a finished run asks nothing
    assert asked(log) == total


def test_a_killed_certification_goes_on(tmp_path, undisturbed):
    words = ["--certify.n", "500", "--certify.n0", "50", "--images.count", "12", "--batch_size", "3"]
    expected, total = undisturbed(CertifyCLI, *words)
    assert total == 12 * 550
    log = tmp_path / "log"
    words += [*counted(log, kill_after=4500), "--run.name", "killed"]
    killed = start("certify.py", *words, KILL="1")
    assert killed.returncode == -9, killed.stderr
    folder = tmp_path / "certify" / "killed"
    assert len(rows(folder, "certificate")) == 6  # two whole batches of 3 x 550 = 1,650 images; the third is broken off
    assert 2 * 1650 < asked(log) <= 4500
    assert len(list((folder / "journal").iterdir())) == 1
    run(CertifyCLI, *words)
    assert asked(log) == total  # the journal answered what the third batch had asked
    pd.testing.assert_frame_equal(rows(folder, "certificate"), expected)
    assert not (folder / "journal").exists()


@EACH_JOB
def test_no_journal_outlives_the_run(tmp_path, command, job, monkeypatch):
    """One is left of a batch of another size, of a start that a failing victim ended."""
    words = [*job, "--images.count", "9", *counted(tmp_path / "log"), "--run.name", "sizes"]
    folder = tmp_path / command.job / "sizes"
    monkeypatch.setattr(Counted, "forward", failing("a wrong shape", tmp_path / "log", 300))
    with pytest.raises(SystemExit):
        run(command, *words, "--batch_size", "9")
    monkeypatch.undo()
    (left,) = (folder / "journal").iterdir()
    run(command, *words, "--batch_size", "4", "--shard", "1/2")
    assert list((folder / "journal").iterdir()) == [left]  # other shards may still need theirs
    run(command, *words, "--batch_size", "4", "--shard", "2/2")
    assert len(rows(folder)) == 9 and not (folder / "journal").exists()


def test_a_full_disk_is_told_and_costs_no_query(tmp_path, undisturbed, monkeypatch, capsys):
    words = [*IN_REACH, "--images.count", "30", "--batch_size", "10", "--budget", "300"]
    expected, total = undisturbed(AttackCLI, *words)
    log, left, opened = tmp_path / "log", iter(range(1 + 14)), Path.open  # the header and 14 rows

    class NearlyFull:
        """Takes half of the line after those, then no more."""

        def __init__(self, raw):
            self.raw, self.fileno, self.close = raw, raw.fileno, raw.close

        def write(self, data):
            if next(left, None) is not None:
                return self.raw.write(data)
            if bytes(data).startswith(b"{"):
                return self.raw.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def nearly_full(path, mode="r", *rest, **more):
        file = opened(path, mode, *rest, **more)
        return NearlyFull(file) if (path.name, mode) == ("attack.jsonl", "ab") else file

    monkeypatch.setattr(Path, "open", nearly_full)
    words += [*counted(log), "--run.name", "full"]
    with pytest.raises(SystemExit) as end:
        run(AttackCLI, *words)
    assert end.value.code == 1
    folder, before = tmp_path / "attack" / "full", asked(log)
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            f": error: {folder / 'attack.jsonl'} could not be written (No space left on device); its 14 rows are safe. "
            "Free disk space and start the same command again: it goes on after them"
        )
    )
    assert len(rows(folder)) == 14
    monkeypatch.undo()
    run(AttackCLI, *words)
    pd.testing.assert_frame_equal(rows(folder), expected)
    # The half-recorded batch was finished: its journal answers it. Only the third batch is asked.
    assert asked(log) == total > before


@EACH_JOB
@pytest.mark.parametrize("fault", ["NaN", "a wrong shape"])
def test_a_victim_that_fails_keeps_the_rows_so_far(tmp_path, undisturbed, capsys, monkeypatch, command, job, fault):
    words = [*job, "--images.count", "30", "--batch_size", "10"]
    expected, total = undisturbed(command, *words)
    log = tmp_path / "log"
    words += [*counted(log), "--run.name", "bad"]
    monkeypatch.setattr(Counted, "forward", failing(fault, log, int(0.6 * total)))
    with pytest.raises(SystemExit) as end:
        run(command, *words)
    assert end.value.code == 1
    told = {"NaN": r"NaN .*for \d+ of", "a wrong shape": r"scores of shape \(\d+, 4\), expected \(\d+, 10\)"}[fault]
    assert re.search(f"victim Counted returned {told}", capsys.readouterr().err.splitlines()[-1])
    kept = rows(tmp_path / command.job / "bad")
    assert len(kept) in (10, 20)
    pd.testing.assert_frame_equal(kept, expected[expected.iloc[:, 0].isin(kept.iloc[:, 0])].reset_index(drop=True))
    monkeypatch.undo()  # the victim is mended
    cli = run(command, *words)
    pd.testing.assert_frame_equal(rows(cli.folder), expected)


@EACH_JOB
def test_two_ranks_write_the_rows_of_one(tmp_path, undisturbed, command, job):
    words = [*job, "--images.count", "25", "--batch_size", "5"]
    expected, total = undisturbed(command, *words)
    log = tmp_path / "log"
    words += [*counted(log), "--run.name", "two", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    both = start(f"{command.job}.py", *words)
    assert both.returncode == 0, both.stderr
    folder = tmp_path / command.job / "two"
    pd.testing.assert_frame_equal(rows(folder), expected)
    assert asked(log) == total
    # Batches 0, 2, 4 belong to rank 0, batches 1, 3 to rank 1: nothing is padded or repeated.
    kind = "attack" if command is AttackCLI else "certificate"
    assert [len(merge_records([record_path(folder, kind, rank=rank)])) for rank in (0, 1)] == [15, 10]
    assert '"complete": true' in (folder / "report.json").read_text()
    assert not (folder / "journal").exists()


@EACH_JOB
def test_shards_of_one_folder_make_one_report(tmp_path, undisturbed, command, job):
    words = [*job, "--images.count", "15", "--batch_size", "4"]
    expected, _ = undisturbed(command, *words)
    words += [*counted(tmp_path / "log"), "--run.name", "shards"]
    for shard, complete in (("2/2", False), ("1/2", True)):
        cli = run(command, *words, "--shard", shard)
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


def test_the_last_checkpoint_is_of_the_last_epoch_also_when_the_best_is_older(tmp_path):
    words = ["--trainer.max_epochs", "3", "--run.root", tmp_path, *QUIET, "--model.optimizer.init_args.lr", "0"]
    folder = run(TrainCLI, *words).folder / "checkpoints"
    epochs = {name: torch.load(folder / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")}
    assert epochs == {"best": 0, "last": 2}
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    told = json.loads((folder.parent / "lineage.json").read_text())["checkpoints"]
    assert {name: entry["sha256"] for name, entry in told.items()} == {
        name: file_sha256(folder / f"{name}.ckpt") for name in ("best", "last")
    }
