"""ZO-NGD against explicit matrices and against what its victim was really asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.victims import Logging, random_linear
from zeroth.attacks import ZONGD
from zeroth.attacks.score.sampled import Probes
from zeroth.attacks.score.zo_ngd import natural_gradient
from zeroth.oracles import Goal, ImageStreams, Rules, ScoreOracle, Trial

NET = random_linear(5, 16)
IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(2, 12), st.sampled_from([1e-3, 0.01, 1.0, 50.0]), st.integers(0, 999))
def test_natural_gradient_is_the_explicit_inverse(factors, dimension, damping, seed):
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(3, factors, dimension, generator=generator, dtype=torch.float64)
    g = torch.randn(3, dimension, generator=generator, dtype=torch.float64)
    fisher = v.transpose(1, 2) @ v + damping * torch.eye(dimension, dtype=torch.float64)
    assert torch.allclose(natural_gradient(g, v, damping), torch.linalg.solve(fisher, g), rtol=1e-7, atol=1e-9)


def test_one_factor_is_equation_22():
    s, g, damping = torch.randn(2, 9), torch.randn(2, 9), 0.01
    square = (s * s).sum(1, keepdim=True)
    eq22 = (1 / (square + damping) - 1 / damping) / square * s * (s * g).sum(1, keepdim=True) + g / damping
    assert torch.allclose(natural_gradient(g, s.unsqueeze(1), damping), eq22, rtol=1e-3, atol=1e-3)


def trial_of(net=NET, images=IMAGES, labels=LABELS) -> Trial:
    budget = torch.full((len(images),), 10**6)
    rules = Rules(lambda delta: delta.flatten(1).abs().amax(1), stop_at_success=False)
    streams = ImageStreams(0, range(len(images)))
    return Trial(ScoreOracle(net), images, Goal(labels), rules, budget=budget, streams=streams)


def scores_and_probes(directions: int, net=NET, mu: float = 1e-3) -> tuple[Trial, Probes, torch.Tensor]:
    """Return a trial, its probes, and the K estimated score vectors (n, K, D) by a plain loop over eq. 17."""
    trial = trial_of(net)
    rows = trial.active
    u = trial.sphere(rows, (directions, 16))
    answers = trial.query((trial.images.flatten(1).unsqueeze(1) + mu * u).reshape(3, directions, 1, 4, 4), rows)
    base = trial.start
    scores = torch.zeros(3, base.shape[1], 16)
    for n in range(3):
        for j in range(directions):
            for k in range(base.shape[1]):
                scores[n, k] += 16 / (directions * mu) * (answers[n, j, k] - base[n, k]) * u[n, j]
    return trial, Probes(rows, base, answers, u, 16, 0), scores


def fisher_of(attack: ZONGD, trial: Trial, probes: Probes) -> torch.Tensor:
    factors = attack._factors(probes, *attack._likelihoods(trial, probes))
    assert factors.shape[1] <= probes.directions.shape[1] or attack.fisher != "exact"
    return factors.transpose(1, 2) @ factors


@pytest.mark.parametrize("directions", [3, 12])  # fewer and more than the classes: compressed and direct factors
def test_exact_fisher_is_equation_9(directions):
    trial, probes, scores = scores_and_probes(directions)
    expected = torch.einsum("nk,nkd,nke->nde", probes.base.exp(), scores, scores)
    assert torch.allclose(
        fisher_of(ZONGD(fisher="exact", mu=1e-3), trial, probes), expected, rtol=1e-3, atol=1e-3 * expected.abs().max()
    )


def test_outer_product_is_equation_12_and_two_class_adds_the_rest():
    trial, probes, scores = scores_and_probes(12)
    own = scores[torch.arange(3), LABELS]
    expected = torch.einsum("nd,ne->nde", own, own)
    assert torch.allclose(
        fisher_of(ZONGD(mu=1e-3), trial, probes), expected, rtol=1e-3, atol=1e-3 * expected.abs().max()
    )
    p = probes.base.exp()[torch.arange(3), LABELS]
    # d log(1.0001 - p) = -p / (1.0001 - p) d log p to first order in mu
    rest = own * (-p / (1.0001 - p)).unsqueeze(1)
    expected = p[:, None, None] * expected + (1 - p)[:, None, None] * torch.einsum("nd,ne->nde", rest, rest)
    assert torch.allclose(
        fisher_of(ZONGD(fisher="two_class", mu=1e-3), trial, probes),
        expected,
        rtol=0.05,
        atol=0.02 * expected.abs().max(),
    )


def test_monte_carlo_fisher_has_the_exact_one_as_its_mean():
    flat = type(NET)(NET.weight / 10, NET.bias / 10)  # all classes likely, so that all are drawn
    trial, probes, scores = scores_and_probes(12, flat)
    exact = torch.einsum("nk,nkd,nke->nde", probes.base.exp(), scores, scores)
    many = fisher_of(ZONGD(fisher="monte_carlo", fisher_samples=40_000, mu=1e-3), trial, probes)
    assert torch.allclose(many, exact, atol=0.03 * float(exact.abs().max()))
    assert not torch.allclose(
        fisher_of(ZONGD(fisher="monte_carlo", mu=1e-3), trial, probes), exact, atol=0.03 * float(exact.abs().max())
    )


@pytest.mark.parametrize("fisher", ["outer_product", "two_class", "exact", "none"])
def test_one_iteration_is_equation_19_on_what_was_asked(fisher):
    """The slow obvious reference: estimates and the d x d matrix from the victim's own log, projected step by step."""
    epsilon, rate, gamma, mu, samples = 0.3, 2e-4, 0.01, 0.1, 6
    image, label = IMAGES[:1] * 0.2 + 0.4, NET(IMAGES[:1] * 0.2 + 0.4).argmax(1)
    victim = Logging(NET)
    ZONGD(
        epsilon=epsilon,
        samples=samples,
        mu=mu,
        learning_rate=rate,
        damping=gamma,
        fisher=fisher,
        step="natural",
        cells=None,
    )(ScoreOracle(victim), image, label, budget=8, seed=0)
    asked = victim.asked.flatten(1).double()
    x, probes, after = asked[0], asked[1:7], asked[7]
    t = int(label)
    u = (probes - x) / mu
    assert torch.allclose(u.norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-4)
    log_p = NET(victim.asked).log_softmax(1).double()
    margin = log_p[:, t] - torch.cat([log_p[:, :t], log_p[:, t + 1 :]], 1).amax(1)
    g = 16 / (samples * mu) * sum((margin[1 + j] - margin[0]) * u[j] for j in range(samples))

    def score(values):
        return 16 / (samples * mu) * sum((values[1 + j] - values[0]) * u[j] for j in range(samples))

    own = score(log_p[:, t])
    p = float(log_p[0, t].exp())
    matrix = {
        "none": torch.zeros(16, 16, dtype=torch.float64),
        "outer_product": torch.outer(own, own),
        "two_class": p * torch.outer(own, own)
        + (1 - p) * torch.outer(*[score((1.0001 - log_p[:, t].exp()).log())] * 2),
        "exact": sum(float(log_p[0, k].exp()) * torch.outer(*[score(log_p[:, k])] * 2) for k in range(5)),
    }[fisher]
    step = g if fisher == "none" else torch.linalg.solve(matrix + gamma * torch.eye(16, dtype=torch.float64), g)
    expected = (x + (-rate * step).clamp(-epsilon, epsilon)).clamp(0, 1)
    assert torch.allclose(after, expected, atol=2e-3 * float((expected - x).abs().max()))
    assert float((after - x).abs().max()) > 0


def test_queries_are_one_plus_a_whole_number_of_iterations_for_the_papers_convention():
    result = ZONGD(samples=7, accept="iterates", learning_rate=0.05)(
        ScoreOracle(NET), IMAGES, LABELS, budget=2000, seed=0
    )
    assert result.success.all()
    assert ((result.queries - 1) % 8 == 0).all()
    assert torch.equal(result.queries, result.queries_to_success)
    best = ZONGD(samples=7, accept="all", learning_rate=0.05)(ScoreOracle(NET), IMAGES, LABELS, budget=2000, seed=0)
    assert (best.queries_to_success <= result.queries_to_success).all()


def test_a_last_request_shrinks_to_what_the_budget_allows():
    victim = Logging(NET)
    result = ZONGD(samples=10, epsilon=1e-4)(ScoreOracle(victim), IMAGES[:1], LABELS[:1], budget=17, seed=0)
    assert int(result.queries) == victim.seen == 17  # 1 + (10 + 1) + (4 + 1)
    assert result.reason == ["budget"]


def test_targeted_finds_the_target():
    targets = (LABELS + 1) % 5
    result = ZONGD(epsilon=0.9)(ScoreOracle(NET), IMAGES, LABELS, targets, budget=3000, seed=0)
    assert result.success.all() and torch.equal(result.predicted, targets)


def test_iterations_end_an_attack_as_in_the_published_program():
    result = ZONGD(samples=4, epsilon=1e-4, iterations=3)(ScoreOracle(NET), IMAGES, LABELS, budget=1000, seed=0)
    assert (result.queries == 1 + 3 * 5).all() and result.reason == ["iterations"] * 3
