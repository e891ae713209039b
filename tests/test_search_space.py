"""Search spaces: the shipped ones fit and compare, a faulty one is told before any work."""

import json

import pytest
import yaml
from optuna.distributions import FloatDistribution, IntDistribution

import zeroth.attacks
from cli import TuneCLI
from cli.search_space import FOLDER, build_attack, find_space, read_space
from tests.runs import surrogates_for
from tests.victims import Shrink
from zeroth.attacks import NESPGD, ZONGD, RGESign
from zeroth.networks import DigitsCNN

SPACES = sorted(FOLDER.glob("*.yaml"))
NGD = ("--attack", "configs/attack/zo_ngd.yaml", "--attack.epsilon", "0.3")
SHRINK = ("--attack", "tests.victims.Shrink")
VICTIM = ("--victim", "DigitsCNN", "--data", "Digits")


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_space_fits_the_attack_of_its_stem(path, tmp_path):
    attack = ["--attack", f"configs/attack/{path.stem}.yaml", *surrogates_for(path)]
    words = [*attack, *VICTIM, "--run.root", str(tmp_path)]
    cli = TuneCLI([*words, "--run.wandb", "disabled"])
    assert cli.space.file == path and set(cli.start) == set(yaml.safe_load(path.read_text()))
    selection = cli.config_init.images
    assert (selection.split, selection.count, cli.config.trials, cli.config.budget) == ("train", 100, 40, 4000)


def test_shared_parameters_have_shared_ranges():
    written = {path.stem: yaml.safe_load(path.read_text()) for path in SPACES}
    assert written["zo_ngd_paper"].keys() == written["zo_ngd"].keys()
    for stem in written.keys() - {"nes_pgd", "rge_sign", "zo_ngd"}:
        # A sign step's learning rate is a length in pixels; elsewhere it is another quantity.
        written[stem].pop("learning_rate", None)
    for name in ("alpha", "p"):  # of ZO-LSTM: a factor of learned steps, a probability; elsewhere other quantities
        written["zo_lstm"].pop(name)
    for name in {name for space in written.values() for name in space}:
        assert len({json.dumps(space[name]) for space in written.values() if name in space}) == 1, name
    nes, rge, ngd = (written[stem] for stem in ("nes_pgd", "rge_sign", "zo_ngd"))
    assert rge.keys() == ngd.keys() - {"damping"} and {"samples", "learning_rate", "cells"} <= nes.keys()
    # mu = sigma sqrt(D): the same probes in images of 28 x 28.
    assert [nes["sigma"][end] * 28 for end in ("low", "high")] == pytest.approx([ngd["mu"]["low"], ngd["mu"]["high"]])


def test_each_attack_has_a_space_by_its_file_or_its_module():
    classes = [getattr(zeroth.attacks, name) for name in zeroth.attacks.__all__ if not name.startswith("Attack")]
    assert {find_space(attack, None).stem for attack in (ZONGD, NESPGD, RGESign)} == {"zo_ngd", "nes_pgd", "rge_sign"}
    assert all(find_space(attack, None) in SPACES for attack in classes)
    assert find_space(RGESign, "nes_pgd").stem == "nes_pgd" and find_space(RGESign, "no_such").stem == "rge_sign"
    with pytest.raises(FileNotFoundError, match=r"write configs/tune/victims\.yaml, or give a file by --space"):
        find_space(Shrink, None)


def test_kinds_of_ranges(tmp_path):
    """The attack's type decides between int and float; numbers do where it takes both or does not say."""
    path = tmp_path / "space.yaml"
    path.write_text(
        "samples: {low: 2, high: 8, step: 3}\nmu: {low: 1, high: 4}\nlearning_rate: {low: 0.1, high: 0.4, step: 0.1}\n"
        "kappa: {low: 1, high: 100, log: true}\ncells: {low: 1, high: 4, log: true}\n"
    )
    assert read_space(path, ZONGD).distributions == {
        "cells": IntDistribution(1, 4, log=True),
        "kappa": FloatDistribution(1, 100, log=True),
        "learning_rate": FloatDistribution(0.1, 0.4, step=0.1),
        "mu": FloatDistribution(1, 4),
        "samples": IntDistribution(2, 8, step=3),
    }


SPACE_FAULTS = {
    "unknown": (
        "sampels: {low: 1, high: 2}",
        "ZONGD has no parameter 'sampels'; did you mean samples? It takes",
    ),
    "order": ("mu: {low: 2, high: 1}", "mu.low must be below high, got low 2 and high 1"),
    "log": ("mu: {low: 0, high: 1, log: true}", "mu.low must be > 0 where log is true, got 0"),
    "empty": ("cells: {choices: []}", "cells.choices must be a list of one or more numbers, texts or nulls, got []"),
    "twice": ("cells: {choices: [4, 4]}", "cells.choices must differ from one another, got [4, 4]"),
    "text": (
        "mu: {low: 1e-3, high: 1}",
        "mu.low must be a number, got '1e-3' (YAML reads 1.0e-5 as one, 1e-5",
    ),
    "key": ("mu: {low: 1, high: 2, scale: 3}", "mu has 'scale' besides low, high, log, step: leave it out"),
    "both": ("mu: {low: 1, high: 2, choices: [1]}", "mu has 'low' besides choices: leave it out"),
    "neither": ("mu: 3", "mu must be {low, high, log, step} or {choices: [...]}, got 3"),
    "step": ("mu: {low: 1, high: 2, step: 0.3}", "mu.step must lead from low to high in whole steps, got 1, 2 and 0.3"),
    "log step": ("mu: {low: 1, high: 2, step: 1, log: true}", "mu.step must be > 0 and is for ranges without log"),
    "whole": ("samples: {low: 1.5, high: 20}", "samples takes whole numbers, got {'low': 1.5, 'high': 20}"),
    "list": ("[1, 2]", "must map parameters to ranges, e.g. mu: {low: 0.1, high: 10, log: true}"),
    "yaml": ("mu: {low: 1", "is no YAML file: while parsing"),
    "outside": ("mu: {low: 2, high: 3}", "attack.mu 0.15 lies outside {'low': 2, 'high': 3} of"),
    "null outside": ("iterations: {low: 1, high: 3}", "attack.iterations None lies outside"),
    "refused": ("samples: {low: -1, high: 20}", "samples -1 is refused: samples must be at least 1, got -1"),
    "wrong choice": ("fisher: {choices: [outer_product, full]}", "fisher 'full' is refused: "),
}


@pytest.mark.parametrize(("text", "message"), SPACE_FAULTS.values(), ids=SPACE_FAULTS)
def test_a_faulty_space(text, message, tmp_path, last_line):
    path = tmp_path / "faulty.yaml"
    path.write_text(text)
    line = last_line(TuneCLI, *NGD, *VICTIM, "--space", str(path))
    assert message in line and str(path) in line
    assert not (tmp_path / "tune").exists()


FAULTS = {
    "no attack": ([], "option --attack is required"),
    "no file": ([*NGD, "--space", "no.yaml"], "space no.yaml does not exist"),
    "no space": ([*SHRINK], "space: nothing tells where Shrink is searched: write configs/tune/victims.yaml, or"),
    "fixed": ([*NGD, "--attack.mu", "2"], "attack.mu is fixed on the command line, but"),
    "fixed, in full": ([*NGD, "--attack.init-args.mu=2"], "leave out the option, or give a --space without mu"),
    "trials": ([*NGD, "--trials", "0"], "trials must be at least 1, the attack as given, got 0"),
    "write": ([*NGD, "--write", "ngd.json"], "write must be a file NAME.yaml, which --attack can take, got ngd.json"),
    "objective": ([*NGD, "--objective", "time"], "objective: expected one of 'queries', 'distance', got time"),
    "budget": ([*NGD, "--budget", "0"], "budget must be at least 1 query an image, got 0"),
    "devices": (
        [*NGD, "--trainer.accelerator", "cpu", "--trainer.devices", "2"],
        "each trial needs all images: use --trainer.devices 1",
    ),
    "shard": ([*NGD, "--shard", "1/2"], "unknown option --shard 1/2"),
    "too many images": ([*NGD, "--images.count", "1201"], "leaves 1200 images of the 1200 in split 'train'"),
    "natural step": (
        ["--attack", "configs/attack/zo_ngd_paper.yaml", "--space", "configs/tune/zo_ngd.yaml"],
        "attack.learning_rate 0.003 lies outside {'low': 0.02, 'high': 0.8, 'log': True} of",
    ),
    "queries of a minimum-norm attack": (
        [*SHRINK, "--objective", "queries", "--space", "configs/tune/rge_sign.yaml"],
        "objective 'queries' is for attacks that stop at success; Shrink spends its budget on every image",
    ),
}


@pytest.mark.parametrize(("words", "message"), FAULTS.values(), ids=FAULTS)
def test_faulty_options(words, message, last_line):
    assert message in last_line(TuneCLI, *VICTIM, *words)


def test_building_leaves_the_arguments_as_they_were():
    given = {"surrogates": [{"class_path": "zeroth.networks.DigitsCNN", "init_args": {"width": 8}}]}
    attack = build_attack("zeroth.attacks.Transfer", given | {"surrogate_budget": 7})
    assert attack.surrogate_budget == 7 and type(attack.surrogates[0]) is DigitsCNN
    assert given == {"surrogates": [{"class_path": "zeroth.networks.DigitsCNN", "init_args": {"width": 8}}]}
