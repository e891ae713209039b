"""White-box NGD against explicit Fisher matrices, their inverses, and what its victim was really asked."""

import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import NGD
from zeroth.oracles import GradientOracle

NET = random_linear(5, 16)
NET.weight, NET.bias = NET.weight / 3, NET.bias / 3  # all classes likely, so that every score vector weighs
IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)
NEVER = 1e6  # a confidence that no point has: the attack goes on to the end of its budget
VECTORS = {"two_class": 0, "outer_product": 1, "exact": 5}  # what each Fisher matrix asks beside the margin


def fisher_and_gradient(image, label, target, fisher):
    """F (16, 16) by a plain loop over eq. 9 or 12 and the margin's gradient (16,), by autograd on the victim itself."""
    x = image.double().unsqueeze(0).requires_grad_()
    log_p = NET(x).log_softmax(1)[0]
    key = label if target is None else target
    other = int(torch.cat([log_p[:key], log_p.new_tensor([-torch.inf]), log_p[key + 1 :]]).argmax())

    def d(value):
        return torch.autograd.grad(value, x, retain_graph=True)[0].flatten()

    gradient = d(log_p[key] - log_p[other]) * (1 if target is None else -1)
    if fisher == "outer_product":
        return torch.outer(d(log_p[key]), d(log_p[key])), gradient
    if fisher == "exact":
        return sum(log_p[k].exp().detach() * torch.outer(d(log_p[k]), d(log_p[k])) for k in range(5)), gradient
    pair = torch.stack([log_p[key], log_p[other]]).log_softmax(0)  # an answer of these two classes alone
    return sum(pair[k].exp().detach() * torch.outer(d(pair[k]), d(pair[k])) for k in range(2)), gradient


@pytest.mark.parametrize("fisher", VECTORS)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_every_step_is_equation_19_with_an_explicit_inverse(fisher, targeted, damping):
    rate, epsilon, steps = 0.02 * max(damping, 0.1), 0.3, 3
    target = (int(LABELS[0]) + 1) % 5 if targeted else None
    victim, each = Logging(NET), 1 + VECTORS[fisher]
    NGD(epsilon=epsilon, learning_rate=rate, damping=damping, fisher=fisher, kappa=NEVER)(
        GradientOracle(victim),
        IMAGES[:1],
        LABELS[:1],
        None if target is None else torch.tensor([target]),
        budget=1 + steps * each,
        seed=0,
    )
    clean, moves = IMAGES[0].double(), []
    for step in range(steps):
        at, after = victim.asked[step * each].double(), victim.asked[(step + 1) * each].double()
        # The score vectors are asked at the point whose margin came before them.
        assert all(torch.equal(victim.asked[step * each + k].double(), at) for k in range(each))
        matrix, gradient = fisher_and_gradient(at, int(LABELS[0]), target, fisher)
        natural = torch.linalg.solve(matrix + damping * torch.eye(16, dtype=torch.float64), gradient)
        expected = (clean + (at - rate * natural.reshape(1, 4, 4) - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
        moves.append(float((expected - at).abs().max()))
        assert torch.allclose(after, expected, atol=1e-4 * moves[-1] + 1e-6)
    assert min(moves) > 1e-4


def test_one_score_vector_along_the_gradient_is_a_step_of_known_length():
    """Sherman-Morrison for F = w g g^T: (F + gamma I)^-1 g = g / (gamma + w |g|^2)."""
    victim = Logging(NET)
    NGD(epsilon=0.4, learning_rate=0.1, damping=0.5, kappa=NEVER)(
        GradientOracle(victim), IMAGES, LABELS, budget=2, seed=0
    )
    for row in range(4):
        _, g = fisher_and_gradient(IMAGES[row], int(LABELS[row]), None, "exact")
        log_p = NET(IMAGES[row : row + 1]).log_softmax(1)[0]
        first, second = log_p.topk(2).values
        weight = 1 / ((second - first).exp() + (first - second).exp() + 2)  # p (1 - p) of the two alone
        expected = IMAGES[row].double().flatten() - 0.1 * g / (0.5 + weight * g.square().sum())
        assert torch.allclose(victim.asked[4 + row].flatten().double(), expected, atol=1e-6)


def test_of_two_classes_the_exact_matrix_is_the_one_that_costs_nothing():
    net = random_linear(2, 16)
    labels = net(IMAGES).argmax(1)
    logs = {fisher: Logging(net) for fisher in ("two_class", "exact")}
    for fisher, victim in logs.items():
        NGD(learning_rate=0.05, damping=0.1, fisher=fisher, kappa=NEVER)(
            GradientOracle(victim), IMAGES[:1], labels[:1], budget=1 + 6 * (3 if fisher == "exact" else 1), seed=0
        )
    assert logs["two_class"].seen == 7 and logs["exact"].seen == 19
    assert torch.allclose(logs["two_class"].asked, logs["exact"].asked[::3], atol=1e-5)


@pytest.mark.parametrize("fisher", ["two_class", "outer_product"])
def test_reaches_the_closed_form_of_its_ball(fisher):
    """Of a linear victim of two classes: the corner x_0 - epsilon sign(w), cut by the box."""
    net = random_linear(2, 16)
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    labels = net(images).argmax(1)
    victim = Logging(net)
    NGD(epsilon=0.3, learning_rate=5.0, damping=0.1, fisher=fisher, kappa=NEVER)(
        GradientOracle(victim), images, labels, budget=201, seed=0
    )
    slope = (net.weight[labels] - net.weight[1 - labels]).float()
    corner = (images.flatten(1) - 0.3 * slope.sign()).clamp(0, 1)
    # The last margins asked lie there whichever queries came after them.
    reached = victim.asked[-4:].flatten(1)
    assert torch.allclose(reached, corner, atol=1e-6)


@pytest.mark.parametrize(("fisher", "vectors"), VECTORS.items())
def test_queries_are_one_a_gradient_and_the_last_step_makes_do(fisher, vectors):
    options = {"epsilon": 1e-3, "fisher": fisher, "kappa": NEVER}
    result = NGD(**options, iterations=4)(GradientOracle(NET), IMAGES, LABELS, budget=100, seed=0)
    assert result.reason == ["iterations"] * 4 and (result.queries == 1 + 4 * (1 + vectors)).all()
    for budget in (1, 2, 3, 9):
        victim = Logging(NET)
        result = NGD(**options)(GradientOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
        assert (result.queries == budget).all() and victim.seen == 4 * budget and result.reason == ["budget"] * 4
        # The last thing asked is a new point, not a score vector that no step follows.
        if budget > 1:
            assert not torch.equal(victim.asked[-4:], victim.asked[:4])


def test_images_of_different_budgets_do_not_disturb_each_other():
    budgets = torch.tensor([3, 20, 6, 11])
    attack = NGD(epsilon=0.01, learning_rate=0.01, fisher="exact", kappa=NEVER)
    together = Logging(NET)
    assert torch.equal(attack(GradientOracle(together), IMAGES, LABELS, budget=budgets, seed=0).queries, budgets)
    alone = Logging(NET)
    attack(GradientOracle(alone), IMAGES[1:2], LABELS[1:2], budget=20, seed=0)
    assert torch.allclose(together.asked[-1], alone.asked[-1], atol=1e-6)


def test_an_oracles_own_cap_ends_it_in_the_middle_of_the_score_vectors():
    oracle = GradientOracle(NET, max_queries=4 + 4 + 2)
    result = NGD(fisher="exact", kappa=NEVER)(oracle, IMAGES, LABELS, budget=100, seed=0)
    assert oracle.queries == 10 == int(result.queries.sum()) and set(result.reason) == {"total_budget"}
    assert result.adversarial.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be > 0, got 0.0"),
        ({"learning_rate": -1.0}, "learning_rate must be > 0, got -1.0"),
        ({"damping": 0.0}, "damping must be > 0, got 0.0"),
        ({"fisher": "none"}, "fisher must be one of two_class, outer_product, exact, got 'none'"),
        ({"iterations": 0}, "iterations must be at least 1, or None"),
        ({"kappa": -1.0}, "kappa must be >= 0, got -1.0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NGD(**options)
