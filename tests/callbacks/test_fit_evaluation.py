"""Evaluations inside fit give what attack.py and certify.py give, and training does not notice them."""

import pandas as pd
import pytest
import torch
from pytorch_lightning import Trainer

from callbacks.attack_evaluation import AttackEvaluation
from callbacks.certification import Certification, radius_name
from callbacks.fit_evaluation import evaluating
from callbacks.selection import Selection
from cli import AttackCLI, CertifyCLI
from datamodules import Digits
from lightning_modules import Classifier
from tests.runs import QUIET, run
from zeroth.attacks import ZONGD
from zeroth.networks import DigitsCNN
from zeroth.records import attack_summary, certificate_summary, merge_records


def fit(callbacks, folder, epochs=2) -> tuple[Trainer, list[dict]]:
    """Train the digits victim; gives the numbers that each epoch logged."""
    logged = []

    class Keep(AttackEvaluation):
        def __init__(self):
            pass

        def on_validation_epoch_end(self, trainer, pl_module):
            pass

        def on_train_epoch_end(self, trainer, pl_module):
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    torch.manual_seed(0)
    module, data = Classifier(DigitsCNN()), Digits()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=2, callbacks=[*callbacks, Keep()],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "model.ckpt")
    return trainer, logged


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    images = Selection(split="val", count=40, start=3, stride=2)
    attack = AttackEvaluation(ZONGD(epsilon=0.2), every_n_epochs=2, images=images, budget=60, batch_size=17)
    certify = Certification(sigma=0.25, images=images, n0=20, n=200, radii=(0.0, 0.25), batch_size=9)
    return folder, fit([attack, certify], folder)


SAME = [
    "--images.split",
    "val",
    "--images.count",
    "40",
    "--images.start",
    "3",
    "--images.stride",
    "2",
    "--data",
    "Digits",
]


def test_the_attack_inside_fit_is_that_of_attack_py(fitted, tmp_path):
    folder, (_, logged) = fitted
    words = [
        "--checkpoint",
        folder / "model.ckpt",
        "--attack",
        "ZONGD",
        "--attack.epsilon",
        "0.2",
        "--budget",
        "60",
        *SAME,
    ]
    cli = run(AttackCLI, *words, "--run.root", tmp_path, *QUIET)
    told = attack_summary(merge_records(cli.folder))
    assert 0 < told["success_rate"]["value"] < 1  # else any attack would do
    assert logged[1]["val_attack_success_rate"] == pytest.approx(told["success_rate"]["value"])
    assert logged[1]["val_robust_accuracy"] == pytest.approx(told["robust_accuracy"]["value"])
    assert logged[1]["val_attack_queries"] == pytest.approx(told["queries"]["mean"])


def test_the_certification_inside_fit_is_that_of_certify_py(fitted, tmp_path):
    folder, (_, logged) = fitted
    words = ["--checkpoint", folder / "model.ckpt", "--certify.n0", "20", "--certify.n", "200", *SAME]
    cli = run(CertifyCLI, *words, "--run.root", tmp_path, *QUIET)
    told = certificate_summary(merge_records(cli.folder), [0.0, 0.25])
    got = [logged[1][f"val_certified_accuracy_r{radius_name(radius)}"] for radius in (0.0, 0.25)]
    assert got == pytest.approx(told["certified_accuracy"]["accuracy"])
    assert logged[1]["val_average_certified_radius"] == pytest.approx(told["acr"], abs=1e-5)
    assert logged[1]["val_abstained"] == pytest.approx(told["abstention_rate"]["value"])


def test_it_runs_every_n_epochs(fitted):
    _, (_, logged) = fitted
    assert ["val_attack_success_rate" in epoch for epoch in logged] == [False, True]
    assert ["val_certified_accuracy_r0_25" in epoch for epoch in logged] == [True, True]


def test_training_is_not_disturbed(fitted, tmp_path):
    _, (watched, _) = fitted
    alone, _ = fit([], tmp_path)
    states = [trainer.lightning_module.state_dict() for trainer in (watched, alone)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_modes_and_random_states_come_back():
    module = Classifier(DigitsCNN())
    module.network.features.eval()  # a frozen part must stay frozen
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state()
    with evaluating(module), torch.inference_mode():
        assert not any(part.training for part in module.modules())
        torch.randn(3)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttackEvaluation(ZONGD(), budget=0), "budget must be at least 1"),
        (lambda: AttackEvaluation(ZONGD(), every_n_epochs=0), "every_n_epochs must be at least 1"),
        (lambda: Certification(sigma=0), "sigma must be a positive"),
        (lambda: Certification(radii=()), "radii must be one or more numbers >= 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_it_is_configured_by_yaml(tmp_path):
    from cli import TrainCLI

    config = tmp_path / "watched.yaml"
    config.write_text(
        "model: {class_path: Classifier, init_args: {network: DigitsCNN}}\n"
        "data: Digits\n"
        "trainer:\n  max_epochs: 1\n  callbacks:\n"
        "  - class_path: callbacks.AttackEvaluation\n"
        "    init_args:\n      attack: {class_path: ZONGD, init_args: {epsilon: 0.3}}\n"
        "      budget: 20\n      images: {split: val, count: 5}\n"
        "  - class_path: callbacks.Certification\n    init_args: {n: 50, images: {split: val, count: 4}}\n"
    )
    cli = run(TrainCLI, "--config", config, "--run.root", tmp_path, *QUIET)
    metrics = pd.read_csv(tmp_path / "train-victim" / "watched" / "csv" / "version_0" / "metrics.csv")
    assert (
        metrics["val_robust_accuracy"].dropna().between(0, 1).all()
        and metrics["val_certified_accuracy_r0"].notna().sum() == 1
    )
    assert cli.trainer.callbacks[0].attack.epsilon == 0.3
