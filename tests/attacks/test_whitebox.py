"""What every white-box attack promises: exact counts, points that hold, neighbours that do not matter."""

import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import EAD, FGM, IFGM, NGD, PGD, CarliniWagner
from zeroth.oracles import GradientOracle, ScoreOracle

NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
LABELS = NET(IMAGES).argmax(1)
ATTACKS = [
    PGD(epsilon=0.05),
    PGD(epsilon=0.3, norm="l2", learning_rate=0.1, steps=3, random_start=True, loss="cross_entropy"),
    NGD(epsilon=0.05),
    NGD(epsilon=0.3, fisher="outer_product", learning_rate=0.02, damping=0.01),
    NGD(epsilon=0.05, fisher="exact"),
    *(FGM(norm=norm, stride=stride) for norm, stride in (("linf", 1), ("l2", 25), ("l1", 7))),
    FGM(norm="linf", loss="cross_entropy", largest=0.02),
    *(IFGM(norm=norm) for norm in ("linf", "l2")),
    IFGM(norm="l1", stride=3, steps=4, loss="cross_entropy", accept="iterates"),
    CarliniWagner(iterations=20),
    CarliniWagner(constant=1.0, searches=2, iterations=30, kappa=0.5),
    EAD(iterations=20),
    EAD(rule="l1", shrinkage="prox", constant=1.0, searches=2, iterations=30, accept="iterates"),
    EAD(method="ista", beta=0.01),
]
each = pytest.mark.parametrize("attack", ATTACKS, ids=repr)


@each
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101])
def test_the_ledger_counts_what_the_victim_sees(attack, budget):
    victim = Logging(NET)
    result = attack(GradientOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
    assert int(result.queries.sum()) == victim.seen and int(result.queries.max()) <= budget
    assert victim.asked.min() >= 0 and victim.asked.max() <= 1
    # Whoever left play early says why; all others spent all they had.
    early = result.queries < budget
    assert all(
        reason in ("success", "grid", "searches") for reason, out in zip(result.reason, early, strict=True) if out
    )
    assert all(reason == "budget" or not out for reason, out in zip(result.reason, ~early, strict=True) if budget == 1)


@each
@pytest.mark.parametrize("targeted", [False, True])
def test_a_success_holds_when_it_is_asked_again(attack, targeted):
    targets = (LABELS + 1) % 5 if targeted else None
    result = attack(GradientOracle(NET), IMAGES, LABELS, targets, budget=400, seed=0)
    found = result.success
    assert found.any() or attack.epsilon or getattr(attack, "largest", 1) < 0.1
    predicted = NET(result.adversarial).argmax(1)
    assert torch.equal(predicted[found], result.predicted[found])
    assert (predicted[found] == targets[found] if targeted else predicted[found] != LABELS[found]).all()
    delta = (result.adversarial - IMAGES)[found]
    if len(delta):
        assert torch.allclose(attack.distance(delta), result.distance[found])
        if attack.epsilon is not None:
            assert float(result.distance[found].max()) <= attack.epsilon + 1e-6


@each
def test_the_batch_changes_nothing(attack):
    together = attack(GradientOracle(NET), IMAGES, LABELS, budget=150, seed=3)
    parts = [
        attack(GradientOracle(NET, max_batch=1), IMAGES[i : i + 1], LABELS[i : i + 1], budget=150, seed=3, indices=[i])
        for i in range(6)
    ]
    for name in ("success", "queries", "queries_to_success"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(part, name) for part in parts])), name
    assert torch.allclose(together.adversarial, torch.cat([part.adversarial for part in parts]), atol=1e-5)


class Partly(torch.nn.Module):
    """Answers a dark image with a constant, a bright one with a class that only brighter ones lose; else as NET."""

    def forward(self, images):
        logits, light = NET(images), images.flatten(1).sum(1, keepdim=True).double()
        rest = torch.zeros_like(logits[:, 1:])
        constant, sure = torch.cat([9 + 0 * light, rest], 1), torch.cat([1e3 - light, rest], 1)
        return torch.where(light < 0.1, constant, torch.where(light > 14, sure, logits))


@each
def test_hopeless_and_wrong_rows_leave_their_neighbours_alone(attack):
    images = torch.cat([torch.zeros(1, 1, 4, 4), IMAGES[:3], torch.ones(1, 1, 4, 4), IMAGES[:1], IMAGES[3:]])
    victim, (constant, sure, wrong), others = Partly(), (0, 4, 5), torch.tensor([1, 2, 3, 6, 7, 8])
    labels = victim(images).argmax(1)
    labels[wrong] = (labels[wrong] + 1) % 5
    indices = torch.tensor([10, 0, 1, 2, 11, 12, 3, 4, 5])
    together = attack(GradientOracle(victim), images, labels, budget=200, seed=0, indices=indices)
    alone = attack(GradientOracle(victim), IMAGES, LABELS, budget=200, seed=0)
    assert torch.equal(together.queries[others], alone.queries)
    assert torch.equal(together.success[others], alone.success)
    assert [together.reason[row] for row in others.tolist()] == alone.reason
    assert torch.allclose(together.adversarial[others], alone.adversarial, atol=1e-5)
    assert together.reason[wrong] == "misclassified" and int(together.queries[wrong]) == 1
    for row in (constant, sure):
        assert together.reason[row] in ("budget", "grid", "searches") and int(together.queries[row]) > 1
    for row in (constant, sure, wrong):
        assert not together.success[row] and together.distance[row] == torch.inf
        assert torch.equal(together.adversarial[row], images[row])


@each
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 5, 4)])
def test_a_constant_victim_and_odd_shapes_end(attack, shape):
    def constant(images):
        return images.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([5.0, 0.0, 0.0])

    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    result = attack(GradientOracle(constant), images, torch.tensor([0, 0]), budget=300, seed=0)
    assert not result.success.any() and set(result.reason) <= {"budget", "grid", "searches"}
    net = random_linear(3, images[0].numel())
    result = attack(GradientOracle(net), images, net(images).argmax(1), budget=300, seed=0)
    assert (result.queries <= 300).all() and result.adversarial.isfinite().all()


@each
def test_scores_alone_are_refused(attack):
    with pytest.raises(ValueError, match=f"{type(attack).__name__} needs a GradientOracle, got ScoreOracle"):
        attack(ScoreOracle(NET), IMAGES, LABELS, budget=9, seed=0)
