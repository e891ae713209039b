"""Networks that ship with the package are told by their hash: another release may ship others."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli import AttackCLI
from cli.checkpoints import checkpoints_in, with_shipped_hashes
from experiments.loading import load_experiment
from experiments.plan import make_plan
from tests.runs import counted, run
from zeroth.networks import checkpoint_rnns
from zeroth.records.schema import file_sha256

TABLE = Path(__file__).parents[1] / "configs/experiment/zo_l2l/shipped_mnist.yaml"


def ship_others(folder, monkeypatch) -> str:
    """Put networks into the package whose updates are half as long, and return their hash."""
    held = load_file(checkpoint_rnns.SHIPPED)
    held["rule.update.output.weight"] /= 2
    save_file(held, folder / "others.safetensors")
    monkeypatch.setattr(checkpoint_rnns, "SHIPPED", folder / "others.safetensors")
    assert torch.equal(checkpoint_rnns.CheckpointUpdateRNN().output.weight, held["rule.update.output.weight"])
    return file_sha256(folder / "others.safetensors")


def test_a_run_belongs_to_the_networks_that_it_was_begun_with(tmp_path, monkeypatch, capsys):
    words = ["--attack", "LearnedZO", "--attack.q", "2", *counted(tmp_path / "log"), "--images.count", "2"]
    words += ["--budget", "7", "--run.name", "mine"]
    lineage = json.loads((run(AttackCLI, *words).folder / "lineage.json").read_text())
    known = file_sha256(checkpoint_rnns.SHIPPED)
    assert [parent["sha256"] for parent in lineage["parents"]] == [known]
    assert lineage["settings"]["attack"]["init_args"]["checkpoint_sha256"] == known
    other = ship_others(tmp_path, monkeypatch)
    with pytest.raises(SystemExit):
        run(AttackCLI, *words)
    told = f"was made with attack.init_args.checkpoint_sha256 = '{known}', this run has '{other}'"
    assert told in capsys.readouterr().err


def test_a_plan_measures_again_what_is_built_on_them_and_nothing_else(tmp_path, monkeypatch):
    def hashes():
        plan = make_plan(load_experiment(TABLE, "digits"), "digits", file=TABLE, runs=tmp_path)
        return {stage.name: stage.hash for stage in plan.stages}

    before = hashes()
    ship_others(tmp_path, monkeypatch)
    moved = {name for name, found in hashes().items() if found != before[name]}
    assert moved == {"shipped", "finetuned", "no_query", "guided_es", "no_update"}


def test_only_a_class_that_is_given_no_file_reads_one_of_the_package():
    update = "zeroth.networks.CheckpointUpdateRNN"
    own, shipped = ({"class_path": update, "init_args": {"checkpoint": file}} for file in ("mine.ckpt", None))
    plain = {"class_path": "zeroth.networks.UpdateRNN", "init_args": {"hidden": 3}}
    settings = {"rule": [own, shipped, plain], "checkpoint": None}
    assert list(checkpoints_in(settings)) == ["mine.ckpt", str(checkpoint_rnns.SHIPPED)]
    told = with_shipped_hashes(settings)
    assert told["rule"][1]["init_args"] == {
        "checkpoint": None,
        "checkpoint_sha256": file_sha256(checkpoint_rnns.SHIPPED),
    }
    assert [told["rule"][0], told["rule"][2], told["checkpoint"]] == [own, plain, None]
    assert shipped["init_args"] == {"checkpoint": None}  # what was given is left as it was
