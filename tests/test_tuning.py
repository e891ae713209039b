"""tune.py: the given attack first, equal effort, exact resumption, a tuned file that attack.py takes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from callbacks.tuning import read_trials
from cli import AttackCLI, TuneCLI
from datamodules import Digits
from tests.runs import Counted, asked, counted, run
from tests.starts import start
from tests.victims import Shrink
from zeroth.attacks import ZONGD
from zeroth.oracles import ScoreOracle

IMAGES, BUDGET = 6, 60
# More trials than the sampler's ten random ones, so that its model takes part.
TRIALS = 13
NGD = ("--attack", "configs/attack/zo_ngd.yaml", "--attack.epsilon", "0.3")
SMALL = ("--images.count", str(IMAGES), "--budget", str(BUDGET), "--batch_size", "4", "--seed", "3")
SHRINK = ("--attack", "tests.victims.Shrink")


def results(folder: Path) -> list[dict]:
    """Trials as recorded, but for how long they took."""
    told = json.loads((folder / "trials.json").read_text())["results"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in told]


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    items = [Digits().dataset("train")[place] for place in range(count)]
    return (
        torch.stack([item["image"] for item in items]),
        torch.tensor([int(item["label"]) for item in items]),
        torch.tensor([int(item["index"]) for item in items]),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = tmp_path_factory.mktemp("tune")
    cli = run(TuneCLI, *NGD, *SMALL, *counted(place / "log"), "--trials", TRIALS, "--write", place / "w" / "ngd.yaml")
    return cli, json.loads((cli.folder / "trials.json").read_text()), asked(place / "log")


def test_trials_and_queries_are_counted(undisturbed):
    cli, told, queries = undisturbed
    assert cli.folder.name == "Counted-zo_ngd" and cli.folder.parent.name == "tune"
    assert told["trials"] == len(told["results"]) == TRIALS
    assert [row["number"] for row in told["results"]] == list(range(TRIALS))
    assert sum(row["total_queries"] for row in told["results"]) == queries
    assert (told["seed"], told["budget"], told["objective"], told["images"]) == (3, BUDGET, "queries", IMAGES)
    assert told["indices"] == batch(IMAGES)[2].tolist()
    assert told["best"] == min(told["results"], key=lambda row: row["value"])
    assert len({json.dumps(row["params"]) for row in told["results"]}) == TRIALS


def test_trial_0_is_the_attack_as_given(undisturbed):
    """A null learning rate is 2 epsilon."""
    first = undisturbed[1]["results"][0]
    assert first["params"] == {"cells": 7, "damping": 5e-05, "learning_rate": 0.6, "mu": 0.15, "samples": 6}


def test_the_value_of_a_trial_is_that_of_the_attack(undisturbed, tmp_path):
    images, labels, indices = batch(IMAGES)
    for number in (0, 4, TRIALS - 1):
        row = undisturbed[1]["results"][number]
        victim = Counted(log=str(tmp_path / "log"))
        got = ZONGD(epsilon=0.3, **row["params"])(
            ScoreOracle(victim), images, labels, budget=BUDGET, seed=3, indices=indices
        )
        cost, won, spent, total = [], [], [], 0
        for success, queries, reason in zip(got.success.tolist(), got.queries.tolist(), got.reason, strict=True):
            total += queries
            if reason != "misclassified":
                cost.append(queries if success else BUDGET)
                won.append(success)
                spent.append(queries)
        assert row["value"] == pytest.approx(sum(cost) / len(cost), abs=1e-12)
        assert row["success_rate"] == sum(won) / len(won)
        assert row["mean_queries"] == pytest.approx(sum(spent) / len(spent), abs=1e-12)
        assert row["total_queries"] == total == asked(tmp_path / "log")
        (tmp_path / "log").unlink()


def test_a_killed_tuning_goes_on_as_if_undisturbed(undisturbed, tmp_path):
    _, told, queries = undisturbed
    log = tmp_path / "log"
    words = [*NGD, *SMALL, *counted(log, kill_after=int(0.95 * queries)), "--trials", TRIALS]
    killed = start("tune.py", *words, KILL="1")
    assert killed.returncode == -9
    done = results(tmp_path / "tune" / "Counted-zo_ngd")
    assert 10 < len(done) < TRIALS  # the sampler's model is in use
    cli = run(TuneCLI, *words)
    assert results(cli.folder) == results(undisturbed[0].folder)
    # What was asked of the killed trial is asked again, and nothing else.
    again = asked(log) - queries
    assert 0 <= again <= told["results"][len(done)]["total_queries"]


def test_more_trials_go_on_and_fewer_are_refused(undisturbed, tmp_path, last_line, capsys):
    """With W&B, offline: its table must take every column of the trials."""
    words = [*NGD, *SMALL, *counted(tmp_path / "log")]
    online = ["--run.wandb", "offline"]
    cli = run(TuneCLI, *words, "--trials", 2)
    before = asked(tmp_path / "log")
    cli = run(TuneCLI, *words, "--trials", 7, *online)
    assert results(cli.folder) == results(undisturbed[0].folder)[:7]
    assert {row["params"]["cells"] for row in results(cli.folder)} >= {None, 7}
    assert list((cli.folder / "wandb").glob("offline-run-*"))
    spent = sum(row["total_queries"] for row in results(cli.folder))
    assert asked(tmp_path / "log") == spent > before
    run(TuneCLI, *words, "--trials", 7)  # nothing is left to try
    assert asked(tmp_path / "log") == spent
    assert "holds 7 trials, more than trials 6: give as many or more" in last_line(TuneCLI, *words, "--trials", "6")
    assert "was made with seed = 3, this run has 4" in last_line(TuneCLI, *words, "--trials", "7", "--seed", "4")
    other = tmp_path / "other.yaml"
    other.write_text("mu: {low: 0.1, high: 2}\n")
    line = last_line(TuneCLI, *words, "--trials", "7", "--space", str(other))
    assert "was made with space.cells = {'choices': [4, 7, 14, None]}, this run has None" in line


def test_the_tuned_file_is_the_best_trial(undisturbed, tmp_path):
    cli, told, _ = undisturbed
    tuned = cli.folder / "tuned.yaml"
    copy = Path(cli.config.write)
    assert copy.read_bytes() == tuned.read_bytes()
    head = [line for line in tuned.read_text().splitlines() if line.startswith("# ")]
    assert f"trial {told['best']['number']} of {TRIALS} (" in head[0]
    assert "seed 3), 6 images of Digits, split train from 0 on." in head[0]
    attacked = run(AttackCLI, "--attack", copy, *SMALL, "--images.split", "train", *counted(tmp_path / "log"))
    attack = attacked.task.attack
    assert isinstance(attack, ZONGD) and attacked.folder.name == "Counted-ngd"
    assert {name: getattr(attack, name) for name in told["best"]["params"]} == told["best"]["params"]
    assert (attack.epsilon, attack.fisher, attack.step) == (0.3, "outer_product", "sign")
    report = json.loads((attacked.folder / "report.json").read_text())
    assert report["queries"]["mean"] == pytest.approx(told["best"]["mean_queries"])
    assert report["success_rate"]["value"] == told["best"]["success_rate"]
    assert told["best"]["value"] <= told["results"][0]["value"]


def test_the_config_of_a_run_goes_on_with_it(undisturbed):
    cli, told, _ = undisturbed
    log = Path(cli.config.victim.init_args["log"])
    before = asked(log)
    again = run(TuneCLI, "--config", cli.folder / "config.yaml")
    assert again.folder == cli.folder and asked(log) == before
    assert results(cli.folder) == [{k: v for k, v in row.items() if k != "seconds"} for row in told["results"]]


def test_a_minimum_norm_attack_is_tuned_by_distance_and_failed_trials_count(tmp_path):
    space = tmp_path / "shrink.yaml"
    space.write_text("width: {low: 2, high: 30}\nscale: {low: 0.1, high: 2.0}\n")
    shrink = [*SHRINK, "--space", space, *SMALL, *counted(tmp_path / "log"), "--trials", 12]
    cli = run(TuneCLI, *shrink)
    told = json.loads((cli.folder / "trials.json").read_text())
    assert told["objective"] == "distance" and len(told["results"]) == 12
    failed = [row for row in told["results"] if row["failed"]]
    assert failed and all(row["params"]["scale"] * row["params"]["width"] > 20 for row in failed)
    assert all(row["value"] is None and "scale * width must be at most 20" in row["failed"] for row in failed)
    images, labels, indices = batch(IMAGES)
    for row in told["results"]:
        if not row["failed"]:
            victim = ScoreOracle(Counted(log=str(tmp_path / "other")))
            got = Shrink(**row["params"])(victim, images, labels, budget=BUDGET, seed=3, indices=indices)
            kept = [d for d, why in zip(got.distance.tolist(), got.reason, strict=True) if why != "misclassified"]
            median = float(np.median(kept))
            assert row["value"] == (median if math.isfinite(median) else None)
    assert [trial.value for trial in read_trials(cli.folder / "trials.json")] == [
        math.inf if row["value"] is None else row["value"] for row in told["results"]
    ]


def test_an_error_while_asked_fails_the_trial_unless_it_is_the_given_one(tmp_path, last_line):
    space = tmp_path / "shrink.yaml"
    space.write_text("word: {choices: [a, b]}\n")
    words = ["--space", str(space), *SMALL, *counted(tmp_path / "log"), "--trials", "6"]
    cli = run(TuneCLI, *SHRINK, *words)
    told = results(cli.folder)
    assert {row["params"]["word"]: row["failed"] for row in told} == {"a": None, "b": "a step is not finite"}
    assert yaml.safe_load((cli.folder / "tuned.yaml").read_text()) == {
        "class_path": "tests.victims.Shrink",
        "init_args": {"scale": 0.5, "width": 8, "word": "a"},
    }
    given = tmp_path / "given.yaml"
    given.write_text("class_path: tests.victims.Shrink\ninit_args: {word: b}\n")
    assert last_line(TuneCLI, "--attack", str(given), *words, code=1).endswith("a step is not finite")


def test_help_shows_examples_that_are_there(capsys):
    with pytest.raises(SystemExit):
        TuneCLI(["--help"])
    text = capsys.readouterr().out
    examples = [line.split()[2:] for line in text.splitlines() if line.startswith("  python tune.py")]
    assert len(examples) == 4 and "--trials" in text and "--write" in text
    assert all(Path(word).exists() for words in examples for word in words if word.startswith("configs/"))
