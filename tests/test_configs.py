"""Every shipped config goes through the real command line."""

from pathlib import Path

import pytest
import yaml

import datamodules
import zeroth.attacks
import zeroth.networks
from cli import AttackCLI, CertifyCLI, TrainCLI
from tests.runs import asked, counted, run, surrogates_for

CONFIGS = Path(__file__).parents[1] / "configs"


def shipped(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).glob("*.yaml"))


def stem(path: Path) -> str:
    return path.stem


def printed(capsys, command, *words: str) -> dict:
    with pytest.raises(SystemExit) as end:
        command([*words, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("path", shipped("victim"), ids=stem)
def test_a_victim_config_names_what_it_trains(path, capsys):
    config = printed(capsys, TrainCLI, "--config", str(path))
    written = yaml.safe_load(path.read_text())
    assert config["model"]["class_path"].rpartition(".")[2] == written["model"]["class_path"]
    assert config["trainer"]["max_epochs"] == written["trainer"]["max_epochs"]
    assert config["model"]["init_args"]["network"]["class_path"].startswith("zeroth.networks")


@pytest.mark.parametrize("path", [*shipped("autoencoder"), *shipped("defense")], ids=stem)
def test_a_defense_config_names_parts_that_fit(path, capsys):
    """Networks by their names alone: the checkpoints that a defense is built on are not there yet."""
    config = printed(capsys, TrainCLI, "--config", str(path))
    written, told = yaml.safe_load(path.read_text()), config["model"]["init_args"]
    assert config["model"]["class_path"].rpartition(".")[2] == written["model"]["class_path"]
    assert config["trainer"]["max_epochs"] == written["trainer"]["max_epochs"]
    shape = getattr(datamodules, config["data"]["class_path"].rpartition(".")[2]).image_shape
    if not isinstance(shape, tuple):  # a folder's images are what they are cropped to
        shape = (3, *[config["data"]["init_args"]["crop"]] * 2)
    if path.parent.name == "autoencoder":
        network = getattr(zeroth.networks, told["network"]["class_path"].rpartition(".")[2])
        assert network(**told["network"].get("init_args", {})).image_shape == shape
        return
    assert told["denoiser"]["init_args"]["channels"] == shape[0]
    assert (told["autoencoder"] is not None) == ("_ae_ds" in path.stem)
    assert told["estimator"] is None and (told["sigma"], told["denoising_weight"]) == (0.25, 0.0)


@pytest.mark.parametrize("path", shipped("optimizer"), ids=stem)
def test_an_optimizer_config_names_what_it_trains(path, capsys):
    """By its words alone: the checkpoints that it is built on are not there yet."""
    config = printed(capsys, TrainCLI, "--config", str(path))
    told = config["model"]["init_args"]
    assert config["model"]["class_path"] == "lightning_modules.OptimizerTraining"
    assert told["horizon"] % told["window"] == 0 and config["trainer"]["gradient_clip_algorithm"] == "value"
    assert (told["trained"] == "query") == path.stem.endswith("_query")
    assert told["rule"]["init_args"][told["trained"]] is not None
    written = yaml.safe_load(path.read_text())
    assert config["data"]["class_path"].rpartition(".")[2] == written["data"]["class_path"]


@pytest.mark.parametrize("path", shipped("data"), ids=stem)
def test_a_data_config_composes_with_a_victim(path, capsys):
    config = printed(capsys, TrainCLI, "--config", str(CONFIGS / "victim" / "digits.yaml"), "--data", str(path))
    assert config["data"]["class_path"].rpartition(".")[2] in datamodules.__all__
    assert config["data"]["class_path"].rpartition(".")[2] == yaml.safe_load(path.read_text())["class_path"]


def assert_built(attack, written):
    assert type(attack) is getattr(zeroth.attacks, written["class_path"])
    for name, value in written.get("init_args", {}).items():
        if isinstance(value, dict):  # an attack within an attack
            assert_built(getattr(attack, name), value)
        elif value is not None:  # None may stand for what the class derives from the others
            kept = getattr(attack, name)
            assert kept == (tuple(value) if isinstance(kept, tuple) else value), name  # YAML has no tuples


@pytest.mark.parametrize("path", shipped("attack"), ids=stem)
def test_an_attack_config_builds_what_it_says(path, tmp_path):
    words = ["--victim", "DigitsCNN", "--data", "Digits", "--attack", str(path), *surrogates_for(path)]
    cli = AttackCLI([*words, "--run.root", str(tmp_path), "--run.wandb", "disabled"])
    assert_built(cli.task.attack, yaml.safe_load(path.read_text()))
    assert cli.folder.name == f"DigitsCNN-{path.stem}"


@pytest.mark.parametrize("path", shipped("certify"), ids=stem)
def test_a_certify_config_sets_the_certifier(path, tmp_path):
    words = ["--victim", "DigitsCNN", "--data", "Digits", "--certify", str(path)]
    cli = CertifyCLI([*words, "--run.root", str(tmp_path), "--run.wandb", "disabled"])
    written = yaml.safe_load(path.read_text())
    assert {name: getattr(cli.task, name) for name in ("sigma", "n0", "n", "alpha")} == written


@pytest.mark.parametrize(
    ("command", "option"),
    [(TrainCLI, "--run.name"), (AttackCLI, "--budget"), (CertifyCLI, "--certify.sigma")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_help_shows_examples_that_parse(command, option, capsys):
    with pytest.raises(SystemExit) as end:
        command(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert option in text
    examples = [line.split()[2:] for line in text.splitlines() if line.startswith("  python ")]
    assert len(examples) >= 3
    if command is TrainCLI:
        for words in examples:
            printed(capsys, command, *[word for word in words if word != "--print_config"])
    for words in examples:
        for word in words:
            assert not word.startswith("configs/") or (CONFIGS.parent / word).exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [(AttackCLI, ["--attack", "ZONGD", "--budget", "20"]), (CertifyCLI, ["--certify.n", "20", "--certify.n0", "5"])],
    ids=["attack", "certify"],
)
def test_the_config_of_a_run_goes_on_with_it(command, words, tmp_path):
    words = [*words, *counted(tmp_path / "log"), "--images.count", "4"]
    first = run(command, *words)  # under a name of its own choice
    before = asked(tmp_path / "log")
    second = run(command, "--config", first.folder / "config.yaml")
    assert second.folder == first.folder and second.resolved == first.resolved
    assert asked(tmp_path / "log") == before > 0
    other = run(command, "--config", first.folder / "config.yaml", "--run.name", "other", "--images.count", "2")
    assert other.data.total == 2 and asked(tmp_path / "log") > before


def test_every_folder_ships_something():
    assert all(shipped(folder) for folder in ("victim", "data", "attack", "certify"))


def test_the_default_is_the_digits_victim(capsys):
    config = printed(capsys, TrainCLI, "--trainer.max_epochs", "3")
    assert config["data"]["class_path"] == "datamodules.Digits"
    assert config["trainer"]["max_epochs"] == 3
