"""Transfer: two queries of the box, whatever the surrogates answer; the ensemble's gradient; batch invariance."""

import pytest
import torch
from torch import nn

from tests.victims import Logging, label_scatter, random_linear
from zeroth.attacks import EAD, FGM, PGD, AttackResult, CarliniWagner, Square, Transfer
from zeroth.attacks.transfer.transfer import MeanOfSoftmax
from zeroth.oracles import GradientOracle, LabelOracle, ScoreOracle, VictimError
from zeroth.oracles.goal import margin

BOX, OTHER, THIRD = (random_linear(5, 16, seed) for seed in range(3))
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
LABELS = BOX(IMAGES).argmax(1)
# A little confidence: a point on the box's very border is adversarial or not by a rounding.
CW = CarliniWagner(iterations=30, kappa=0.01)
FGSM = FGM(norm="linf", largest=0.4, points=1, stride=1, loss="cross_entropy")


def surrogate_queries(result: AttackResult) -> int:
    return int(result.tallies["surrogate_queries"].sum())


@pytest.mark.parametrize("attack", [CW, EAD(iterations=30, kappa=0.01), FGM(), Square(epsilon=0.4)], ids=repr)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_model_fools_itself_by_the_second_query(attack, targeted):
    """What is crafted on the box itself is what the inner attack finds, to the bit."""
    targets = (LABELS + 1) % 5 if targeted else None
    transfer = Transfer(surrogates=[BOX], attack=attack, surrogate_budget=200)
    result = transfer(LabelOracle(BOX), IMAGES, LABELS, targets, budget=9, seed=0)
    oracle = (ScoreOracle if attack.oracle_type is ScoreOracle else GradientOracle)(BOX)
    inner = attack(oracle, IMAGES, LABELS, targets, budget=200, seed=0)
    made = inner.success
    assert made.any() and (attack is not CW or made.all())
    assert torch.equal(result.success, made)
    assert set(result.queries.tolist()) == {2} and set(result.queries_to_success[made].tolist()) == {2}
    torch.testing.assert_close(result.adversarial, inner.adversarial, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.distance, inner.distance, rtol=1e-3, atol=1e-5)
    assert {reason for reason, found in zip(result.reason, made, strict=True) if not found} <= {"not transferred"}


class Closed(nn.Module):
    """A box that nobody may differentiate."""

    def forward(self, images):
        assert not torch.is_grad_enabled() and not images.requires_grad
        return BOX(images).argmax(1)


def test_the_box_is_asked_twice_and_the_surrogates_are_counted_apart():
    """Also where the surrogate gets the image wrong as it is."""
    surrogate, box = Logging(OTHER), Logging(Closed())
    attack = Transfer(surrogates=[surrogate], attack=CW, surrogate_budget=90)
    result = attack(LabelOracle(box), IMAGES, LABELS, budget=100, seed=0)
    assert 0 < (OTHER(IMAGES).argmax(1) == LABELS).sum() < 6
    assert set(result.queries.tolist()) == {2} and box.seen == 12
    assert result.tallies["surrogate_queries"].tolist() == [90] * 6 and surrogate.seen == 90 * 6
    assert set(result.reason) <= {"success", "not transferred"}


@pytest.mark.parametrize("targeted", [False, True])
def test_what_the_surrogate_gets_wrong_is_stepped_from_too(targeted):
    """One FGSM step from images of any first answer, as the thesis crafts them: the box sees all of them."""
    images, labels = IMAGES.clone().requires_grad_(), LABELS
    targets = OTHER(IMAGES).argsort(1)[:, -1 if targeted else 0]  # what the surrogate says already, if targeted
    targets = torch.where(targets == labels, (labels + 1) % 5, targets) if targeted else None
    aim = OTHER(images).log_softmax(1).gather(1, (labels if targets is None else targets)[:, None]).sum()
    (gradient,) = torch.autograd.grad(aim if targeted else -aim, images)
    box = Logging(BOX)
    Transfer(surrogates=[OTHER], attack=FGSM, surrogate_budget=3)(
        LabelOracle(box), IMAGES, labels, targets, budget=2, seed=0
    )
    torch.testing.assert_close(box.asked[6:], (IMAGES + 0.4 * gradient.sign()).clamp(0, 1))


def test_the_point_of_least_margin_is_asked_where_none_fools_the_surrogate():
    """Of two steps of which neither reaches kappa the second is the surer; one outside the ball does not count."""
    far = CarliniWagner(iterations=2, kappa=1e6, searches=1)
    surrogate, box = Logging(BOX), Logging(BOX)
    result = Transfer(surrogates=[surrogate], attack=far, surrogate_budget=3)(
        LabelOracle(box), IMAGES, LABELS, budget=2, seed=0
    )
    asked = surrogate.asked.reshape(3, 6, 1, 4, 4)[1:]  # the check, then the steps
    margins = torch.stack([margin(BOX(points).float().log_softmax(1), LABELS) for points in asked])
    best = asked[margins.argmin(0), torch.arange(6)]
    assert torch.equal(box.asked[6:], best) and set(result.queries.tolist()) == {2}
    none = Transfer(surrogates=[BOX], attack=far, surrogate_budget=1)(
        LabelOracle(BOX), IMAGES, LABELS, budget=2, seed=0
    )
    assert set(none.reason) == {"not crafted"} and set(none.queries.tolist()) == {1}


@pytest.mark.parametrize(("budget", "queries", "reason"), [(1, 1, "budget"), (2, 2, "success")])
def test_the_budget_of_the_box_is_kept(budget, queries, reason):
    surrogate = Logging(BOX)
    attack = Transfer(surrogates=[surrogate], attack=CW, surrogate_budget=100)
    result = attack(LabelOracle(BOX), IMAGES, LABELS, budget=budget, seed=0)
    assert set(result.queries.tolist()) == {queries} and set(result.reason) == {reason}
    assert budget > 1 or surrogate.seen == 0  # nothing is crafted that could not be asked


def test_the_ensemble_is_the_mean_of_probabilities():
    """Against softmax, mean and log written out, value and gradient (Liu et al. 2017, eq. 4)."""
    images = IMAGES.clone().requires_grad_()
    expected = ((BOX(images).softmax(1) + OTHER(images).softmax(1) + THIRD(images).softmax(1)) / 3).log()
    (gradient,) = torch.autograd.grad(margin(expected, LABELS).sum(), images)
    oracle = GradientOracle(MeanOfSoftmax([BOX, OTHER, THIRD]), output="log_probabilities")
    answers, got = oracle.differentiate(IMAGES, lambda log_p, part: margin(log_p, LABELS[part]))
    torch.testing.assert_close(answers, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-5)
    # Of one member the margin is that of its logits.
    alone = margin(MeanOfSoftmax([BOX])(IMAGES), LABELS)
    torch.testing.assert_close(alone, margin(BOX(IMAGES).float(), LABELS), rtol=1e-4, atol=1e-5)


def test_fgsm_asks_the_one_step_of_the_thesis():
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(BOX(images).log_softmax(1).gather(1, LABELS[:, None]).sum(), images)
    box = Logging(BOX)
    attack = Transfer(surrogates=[BOX], attack=FGSM, surrogate_budget=3)
    result = attack(LabelOracle(box), IMAGES, LABELS, budget=2, seed=0)
    assert result.success.all() and surrogate_queries(result) == 18
    assert (attack.norm, attack.epsilon) == ("linf", None)
    torch.testing.assert_close(box.asked[6:], (IMAGES - 0.4 * gradient.sign()).clamp(0, 1))


def test_more_confident_images_are_farther_and_fool_more():
    images = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    labels = BOX(images).argmax(1)
    near = nn.Module()
    near.forward = lambda images: BOX(images) + 0.3 * OTHER(images)  # a model that is like the box
    won, far = [], []
    for kappa in (0.0, 1.0, 3.0):
        attack = Transfer(surrogates=[near], attack=CarliniWagner(iterations=60, kappa=kappa), surrogate_budget=300)
        result = attack(LabelOracle(BOX), images, labels, budget=2, seed=0)
        won.append(int(result.success.sum()))
        far.append(float(result.distance[result.success].mean()))
    assert won[0] < won[1] < won[2] and far[0] < far[1] < far[2]


@pytest.mark.parametrize("attack", [CW, PGD(epsilon=0.3, random_start=True), Square(epsilon=0.4)], ids=repr)
def test_the_batch_changes_nothing(attack):
    transfer = Transfer(surrogates=[BOX, OTHER], attack=attack, surrogate_budget=60)
    keys = [4, 9, 2, 7, 1, 30]
    together = transfer(LabelOracle(BOX), IMAGES, LABELS, budget=5, seed=3, indices=keys)
    parts = [
        transfer(LabelOracle(BOX, max_batch=1), IMAGES[i : i + 1], LABELS[i : i + 1], budget=5, seed=3, indices=[key])
        for i, key in enumerate(keys)
    ]
    assert sum(map(surrogate_queries, parts)) == surrogate_queries(together) > 0
    assert torch.equal(together.queries, torch.cat([part.queries for part in parts]))
    assert together.reason == [part.reason[0] for part in parts]
    torch.testing.assert_close(together.adversarial, torch.cat([part.adversarial for part in parts]), rtol=0, atol=1e-5)


def test_norm_and_radius_are_the_inner_attack_s():
    transfer = Transfer(surrogates=[BOX], attack=PGD(epsilon=0.3, norm="l2"))
    assert (transfer.norm, transfer.epsilon, transfer.kappa) == ("l2", 0.3, 0.0)
    assert transfer.distance_name == transfer.attack.distance_name == "l2"
    result = transfer(LabelOracle(BOX), IMAGES, LABELS, budget=2, seed=0)
    assert result.success.any() and float(result.distance[result.success].max()) <= 0.3 + 1e-6
    rule = EAD(rule="en", beta=0.5)
    delta = torch.rand(3, 1, 4, 4)
    assert torch.equal(Transfer(surrogates=[BOX], attack=rule).distance(delta), rule.distance(delta))
    assert Transfer(surrogates=[BOX]).attack.kappa == 20


def test_wrong_and_colourful_rows():
    box = random_linear(3, 60, seed=4)
    images = torch.rand(4, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = box(images).argmax(1)
    labels[1] = (labels[1] + 1) % 3
    result = Transfer(surrogates=[box], attack=CW, surrogate_budget=100)(
        LabelOracle(box), images, labels, budget=9, seed=0
    )
    assert result.queries.tolist() == [2, 1, 2, 2] and result.reason == ["success", "misclassified", *2 * ["success"]]
    only = Transfer(surrogates=[box], attack=CW, surrogate_budget=100)(
        LabelOracle(box), images[1:2], labels[1:2], budget=9, seed=0
    )
    assert only.reason == ["misclassified"]


def test_what_is_refused():
    for arguments, message in (
        ({"surrogates": []}, "surrogates must name at least one model to craft on, got none"),
        ({"surrogates": [BOX], "surrogate_budget": 0}, "surrogate_budget must be at least 1 query an image, got 0"),
        ({"surrogates": [BOX], "attack": label_scatter()}, "got Scatter, which needs a LabelOracle: give one such as"),
    ):
        with pytest.raises(ValueError, match=message):
            Transfer(**arguments)
    with pytest.raises(ValueError, match="Transfer needs a LabelOracle, got GradientOracle"):
        Transfer(surrogates=[BOX])(GradientOracle(BOX), IMAGES, LABELS, budget=2, seed=0)
    for surrogates, message in (
        ([nn.Sequential(BOX, nn.Softmax(1))], "declared to return logits, but each row lies in"),
        (
            [BOX, random_linear(5, 15)],
            r"surrogate Linear failed on 6 images of shape \(1, 4, 4\), those of the box: ",
        ),
        ([BOX, random_linear(4, 16)], r"returned scores of shape \(6, 4\), expected \(6, 5\)"),
    ):
        with pytest.raises(VictimError, match=message):
            Transfer(surrogates=surrogates, attack=CW, surrogate_budget=100)(
                LabelOracle(BOX), IMAGES, LABELS, budget=2, seed=0
            )


def test_surrogates_come_into_eval_mode():
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5))
    attack = Transfer(surrogates=[dropping], attack=CW, surrogate_budget=100)
    assert not dropping[1].training
    attack(LabelOracle(BOX), IMAGES, LABELS, budget=2, seed=0)
