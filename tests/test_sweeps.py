"""Every sweep file against W&B's own schema, and what W&B's own agent makes of it against the real command line."""

import copy
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import wandb.wandb_agent
import yaml
from jsonschema import Draft7Validator

from cli import AttackCLI, TrainCLI
from cli.folders import RunOptions
from tests.callbacks.test_loggers import Logged
from tests.runs import QUIET, ROOT, digits_checkpoint
from zeroth.records import merge_records

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
# W&B's schema is not in the package wandb; the package that has it wants numpy 1.
SCHEMA = Draft7Validator(json.loads((ROOT / "tests" / "wandb_sweep_schema.json").read_text()))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def on_digits(sweep: dict, root: Path, **values: object) -> dict:
    """The sweep with a victim that tests have, in folders of the test."""
    own = {"checkpoint": str(digits_checkpoint()), "run.root": str(root), **values}
    fixed = {name: {"value": value} for name, value in own.items()}
    return {**sweep, "parameters": {**sweep["parameters"], **fixed}}


def grid(sweep: dict) -> list[dict]:
    """All runs of a grid as the server hands them out: parameters in alphabetical order."""
    values = {name: told.get("values", [told.get("value")]) for name, told in sorted(sweep["parameters"].items())}
    return [
        {name: {"value": value} for name, value in zip(values, run, strict=True)}
        for run in itertools.product(*values.values())
    ]


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """W&B's agent, without its server: give it a run, it starts the command."""
    digits_checkpoint()  # before the environment is a sweep's: other tests share it
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # which the agent sets
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)

    def start(sweep: dict, number: int, arguments: dict) -> wandb.wandb_agent.AgentProcess:
        one = wandb.wandb_agent.Agent(None, None, sweep_id="sweep1")
        one._sweep_command = list(sweep["command"])
        name = f"run{number}"
        one._command_run({"run_id": name, "program": sweep["program"], "args": copy.deepcopy(arguments)})
        return one._run_processes[name]

    return start


@pytest.fixture
def emitted(agent, monkeypatch):
    """The command that W&B's agent makes of a run, without starting it."""

    class Kept:
        def __init__(self, command=None, **_):
            self.command = command

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Kept)
    return lambda sweep, number, arguments: agent(sweep, number, arguments).command


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_what_wandb_takes(path):
    sweep = read(path)
    assert [error.message for error in SCHEMA.iter_errors(sweep)] == []
    assert sweep["name"] == path.stem and f"--run.group=sweeps/{path.stem}" in sweep["command"]
    missing = {name: value for name, value in sweep.items() if name != "method"}
    assert [error.message for error in SCHEMA.iter_errors(missing)] == ["'method' is a required property"]
    (fault,) = SCHEMA.iter_errors({**sweep, "methd": "grid"})
    assert "methd" in fault.message


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_files_that_a_sweep_names_are_there(path):
    sweep = read(path)
    assert (ROOT / sweep["program"]).is_file()
    told = [value for entry in sweep["parameters"].values() for value in entry.get("values", [entry.get("value")])]
    for file in (value for value in told if str(value).startswith("configs/")):
        assert (ROOT / file).is_file()
    assert sweep["parameters"]["checkpoint"]["value"] == "runs/train-victim/mnist_cw/checkpoints/best.ckpt"
    assert (ROOT / "configs" / "victim" / "mnist_cw.yaml").is_file()


def test_each_run_of_the_grid_is_a_command_with_a_folder_of_its_own(emitted, tmp_path):
    sweep = on_digits(read(ROOT / "configs" / "sweeps" / "attacks_epsilon.yaml"), tmp_path)
    folders = {}
    for number, arguments in enumerate(grid(sweep)):
        command = emitted(sweep, number, arguments)
        assert command[:3] == ["/usr/bin/env", "python", "attack.py"]
        cli = AttackCLI(command[3:])
        file, epsilon = arguments["attack"]["value"], arguments["attack.epsilon"]["value"]
        assert type(cli.task.attack).__name__ == read(ROOT / file)["class_path"]
        assert cli.task.attack.epsilon == epsilon
        assert (cli.config.budget, cli.config.images.count) == (4000, 200)
        assert (cli.options.group, cli.options.tags) == ("sweeps/attacks_epsilon", ["sweep", "MNIST"])
        assert cli.folder.parent == tmp_path / "attack" and cli.folder.name.startswith(f"digits-{Path(file).stem}-")
        folders[file, epsilon] = cli.folder
    assert len(folders) == len(set(folders.values())) == 3 * 6
    # Started once more, under another id of W&B's: the same folder.
    assert AttackCLI(emitted(sweep, 99, arguments)[3:]).folder == cli.folder


def test_two_runs_of_the_grid_end_to_end(agent, tmp_path):
    small = {"images.count": 6, "budget": 40, "trainer.enable_progress_bar": False}
    sweep = on_digits(read(ROOT / "configs" / "sweeps" / "attacks_epsilon.yaml"), tmp_path, **small)
    runs = grid(sweep)
    chosen = [runs[0], runs[5]]  # the same attack at the smallest and the largest radius
    assert [run["attack.epsilon"]["value"] for run in chosen] == [0.1, 0.4]
    started = [agent(sweep, number, run) for number, run in enumerate(chosen)]
    assert [process.wait() for process in started] == [0, 0]
    folders = {}
    for folder in (tmp_path / "attack").iterdir():
        logged = Logged(folder)
        folders[logged.run.run_id] = folder
        assert (logged.run.sweep_id, logged.run.job_type) == ("sweep1", "attack")
        assert logged.run.run_group == "sweeps/attacks_epsilon"
        # By these two, as they were given, the server knows which points of the grid have been tried.
        given = chosen[int(logged.run.run_id[-1])]
        assert {name: {"value": logged.config[name]} for name in given} == given
        success = json.loads((folder / "report.json").read_text())["success_rate"]["value"]
        assert logged.summary[sweep["metric"]["name"]] == success
    assert sorted(folders) == ["run0", "run1"]
    near, far = (merge_records(folders[name]) for name in ("run0", "run1"))
    assert len(near) == len(far) == 6
    assert near["success"].sum() < far["success"].sum()
    assert far.loc[far["success"], "linf"].between(0.1, 0.4 + 1e-6).all()


def test_wandb_is_online_under_its_agent_unless_told_otherwise(tmp_path, monkeypatch):
    def offline(**options) -> bool:
        *_, logger = RunOptions(root=str(tmp_path), **options).loggers("attack", tmp_path / "run")
        return logger._offline

    assert offline(wandb=None)
    monkeypatch.delenv("WANDB_MODE")
    assert offline()
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert not offline()
    assert offline(wandb="offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert offline()


def test_trainings_of_a_sweep_have_folders_of_their_own(tmp_path, monkeypatch):
    def folder(*words: str) -> str:
        return TrainCLI([*words, "--run.root", str(tmp_path), *QUIET]).folder.name

    assert folder("--trainer.max_epochs=2") == folder("--trainer.max_epochs=3") == "digits"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    two, three = folder("--trainer.max_epochs=2"), folder("--trainer.max_epochs=3")
    assert two != three and {name[:7] for name in (two, three)} == {"digits-"}
    assert folder("--trainer.max_epochs=2", "--trainer.log_every_n_steps=7") == two
    assert folder("--trainer.max_epochs=2", "--run.name=mine") == "mine"
