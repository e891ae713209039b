"""White-box attacks beside those of the adversarial-robustness-toolbox: ``pip install -e ".[peers]"``.

The same victim, images, norm, and numbers of searches and iterations. PGD's loss and step are the same too; C&W and EAD
take the steps of their own program.
"""

import pytest
import torch
from torch import Tensor, nn

from tests.attacks.peer_victim import right_images, trained_victim
from zeroth.attacks import EAD, PGD, Attack, CarliniWagner
from zeroth.oracles import GradientOracle, distance

pytestmark = pytest.mark.slow
evasion = pytest.importorskip("art.attacks.evasion", reason='needs the peers: pip install -e ".[peers]"')
classification = pytest.importorskip("art.estimators.classification")

WORSE = 1.02  # a median distortion may be higher than the peer's by so much
BETA = 0.01


def elastic_net(delta: Tensor) -> Tensor:
    return distance(delta, "l2").square() + BETA * distance(delta, "l1")


def same_search(beta: bool) -> dict[str, object]:
    return {"searches": 6, "iterations": 60, "constant": 0.1, **({"beta": BETA} if beta else {})}


def their_search(beta: bool) -> dict[str, object]:
    search = {"binary_search_steps": 6, "max_iter": 60, "initial_const": 0.1, "learning_rate": 0.01}
    return {**search, "batch_size": 30, "verbose": False, **({"beta": BETA, "decision_rule": "EN"} if beta else {})}


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "size"),
    [
        (CarliniWagner(**same_search(False)), "CarliniL2Method", their_search(False), lambda d: distance(d, "l2")),
        (EAD(**same_search(True)), "ElasticNet", their_search(True), elastic_net),
        *(
            (
                PGD(norm=norm, epsilon=epsilon, learning_rate=epsilon / 10, steps=20, restarts=0, loss="cross_entropy"),
                "ProjectedGradientDescentPyTorch",
                {"norm": order, "eps": epsilon, "eps_step": epsilon / 10, "max_iter": 20, "verbose": False},
                lambda d, norm=norm: distance(d, norm),
            )
            for norm, order, epsilon in (("linf", "inf", 0.15), ("l2", 2, 0.6))
        ),
    ],
    ids=["carlini_wagner", "ead", "pgd-linf", "pgd-l2"],
)
def test_success_is_not_lower_and_distortion_not_higher(ours: Attack, theirs, options, size):
    victim, (images, labels) = trained_victim(), right_images(30)
    peer = classification.PyTorchClassifier(
        victim, nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    found = torch.tensor(getattr(evasion, theirs)(peer, **options).generate(images.numpy(), labels.numpy()))
    fooled = victim(found).argmax(1) != labels
    result = ours(GradientOracle(victim), images, labels, budget=10_000, seed=0)
    mine, his = size(result.adversarial - images), size(found - images)
    both = result.success & fooled
    print(
        f"{theirs}: success {int(result.success.sum())} to {int(fooled.sum())} of {len(images)}, median distortion "
        f"{float(mine[both].median()):.4f} to {float(his[both].median()):.4f}"
    )
    assert int(fooled.sum()) >= 10  # the peer works at all
    assert int(result.success.sum()) >= int(fooled.sum())
    assert float(mine[both].median()) <= WORSE * float(his[both].median())
