"""The batched rules: steps in closed form, exact queries, guidance, and problems that do not see their neighbours."""

import pytest
import torch

from zeroth.estimators import CGE, RGE, GuidedES, LearnedSampling
from zeroth.networks import QueryRNN, UpdateRNN
from zeroth.optimizers import ZOSGD, ZOSZVRG, LearnedOptimizer, ZerothOrder, ZOAdam, ZOSignSGD
from zeroth.oracles import ImageStreams

D, Q, MU = 8, 5, 0.01
SCALES = torch.linspace(0.5, 2.0, 5 * D).view(5, 1, D)
GAUSSIAN = RGE(q=Q, mu=MU, distribution="gaussian")
LEARNED = LearnedSampling(q=Q, mu=MU)


ESTIMATORS = {  # name -> estimator and what it asks of a problem, the point itself included
    "gaussian": (GAUSSIAN, Q + 1),
    "sphere": (RGE(q=Q, mu=MU), Q + 1),
    "pairs": (RGE(q=Q, mu=MU, antithetic=True), 2 * Q),
    "coordinates": (CGE(mu=MU), D + 1),
    "central": (CGE(mu=MU, scheme="central"), 2 * D),
    "guided": (GuidedES(q=Q, mu=MU), Q + 1),
    "guided as in zo_l2l": (GuidedES(q=Q, mu=MU, scaling="zo_l2l"), Q + 1),
    "learned": (LEARNED, Q + 1),
}


def rules() -> dict[str, tuple[ZerothOrder, int]]:
    """Every rule over every estimator, learned sampling with a QueryRNN too; and what an iteration asks."""
    torch.manual_seed(0)
    made = {}
    for name, (estimator, asked) in ESTIMATORS.items():
        for kind in (ZOSGD, ZOSignSGD, ZOAdam):
            made[f"{kind.__name__}, {name}"] = kind(delta=0.4, estimator=estimator), asked
        made[f"ZOSZVRG, {name}"] = ZOSZVRG(delta=0.4, estimator=estimator, snapshot=estimator, epoch=3), 0
        made[f"LearnedOptimizer, {name}"] = LearnedOptimizer(update=UpdateRNN(), estimator=estimator), asked
    for kind in (ZOSGD, ZOSignSGD, ZOAdam):
        made[f"{kind.__name__}, QueryRNN"] = kind(delta=0.4, estimator=LEARNED, query=QueryRNN()), Q + 1
    snapshot = RGE(q=9, mu=MU, distribution="gaussian")
    made["ZOSZVRG, QueryRNN"] = ZOSZVRG(delta=0.4, estimator=LEARNED, snapshot=LEARNED, epoch=3, query=QueryRNN()), 0
    made["ZOSZVRG, other snapshot"] = ZOSZVRG(delta=0.4, estimator=GAUSSIAN, snapshot=snapshot, epoch=3), 0
    made["ZO-LSTM"] = LearnedOptimizer(update=UpdateRNN(), estimator=LEARNED, query=QueryRNN()), Q + 1
    return made


class Quadratics:
    """f(x) = sum a x^2 of some of five problems, counted."""

    def __init__(self, rows: list[int]) -> None:
        self.rows, self.asked = rows, 0

    def __call__(self, points):
        self.asked += points.shape[1]
        return (points.square() * SCALES[self.rows].to(points)).sum(2)


def run(rule: ZerothOrder, rows: list[int], steps: int) -> tuple[torch.Tensor, list[int]]:
    """Return the trajectory (steps, n, d) of some problems, and what each step asked."""
    f, streams, everyone = Quadratics(rows), ImageStreams(3, rows), torch.arange(len(rows))
    theta, state, path, asked = torch.ones(len(rows), D), rule.begin(len(rows), D), [], []
    with torch.no_grad():
        for iteration in range(steps):
            before = f.asked
            step = rule.step(f, theta, state, iteration=iteration, draw=lambda shape: streams.randn(everyone, shape))
            assert torch.equal(step.theta, theta + step.update)
            theta, state = step.theta, step.state
            path.append(theta)
            asked.append(f.asked - before)
    return torch.stack(path), asked


@pytest.mark.parametrize("name", rules())
def test_problems_do_not_see_their_neighbours_and_queries_are_exact(name):
    rule, expected = rules()[name]
    whole, asked = run(rule.eval(), [0, 1, 2, 3, 4], 8)
    assert asked == [rule.queries(D, iteration) for iteration in range(8)]
    assert "ZOSZVRG" in name or asked == [expected] * 8
    for rows in ([2], [4, 1]):
        assert torch.equal(run(rule, rows, 8)[0], whole[:, rows])
    assert (whole[-1] - whole[0]).abs().amax(1).min() > 1e-4


def test_sgd_and_sign_take_delta_over_d_of_the_gradient():
    """CGE is exact on a linear function."""
    b = torch.randn(3, D, dtype=torch.float64)
    theta = torch.randn(3, D, dtype=torch.float64)
    for kind, direction in ((ZOSGD, b), (ZOSignSGD, b.sign())):
        rule = kind(delta=4.0, estimator=CGE(mu=0.5))
        arguments = {"iteration": 0, "draw": torch.empty}
        step = rule.step(lambda p: torch.einsum("bqd,bd->bq", p, b), theta, rule.begin(3, D), **arguments)
        torch.testing.assert_close(step.gradient, b)
        torch.testing.assert_close(step.theta, theta - 4 / D * direction)
        torch.testing.assert_close(step.value, (theta * b).sum(1))
        rates = torch.arange(D, dtype=torch.float64)
        step = rule.step(lambda p: torch.einsum("bqd,bd->bq", p, b), theta, {}, lr=rates, **arguments)
        torch.testing.assert_close(step.theta, theta - rates * direction)


@pytest.mark.parametrize("name", rules())
def test_a_step_is_functional_and_a_known_value_saves_a_query(name):
    rule = rules()[name][0].eval()
    f, theta, state = Quadratics([0, 1, 2, 3, 4]), torch.ones(5, D), rule.begin(5, D)
    before = {key: held.clone() for key, held in state.items()}
    first = rule.step(f, theta, state, iteration=0, draw=ImageDraw())
    asked = f.asked
    known = rule.step(f, theta, state, iteration=0, draw=ImageDraw(), value=f(theta.unsqueeze(1))[:, 0])
    assert f.asked - asked - 1 == asked - rule.estimator.needs_value * (2 if "ZOSZVRG" in name else 1)
    for own, again in zip(first, known, strict=True):
        if isinstance(own, torch.Tensor) and rule.estimator.needs_value:
            torch.testing.assert_close(own, again)
    assert torch.equal(theta, torch.ones(5, D)) and state.keys() == first.state.keys()
    assert all(torch.equal(held, before[key]) for key, held in state.items())
    assert all(len(held) == 5 for held in first.state.values())


class ImageDraw:
    """The same draws at every beginning."""

    def __init__(self) -> None:
        self.streams = ImageStreams(0, range(5))

    def __call__(self, shape):
        return self.streams.randn(torch.arange(5), shape)


def test_guided_es_follows_the_last_estimate_and_update():
    seen = []

    class Told(GuidedES):
        def __call__(self, f, x, *, surrogates=None, **rest):
            seen.append(surrogates)
            return super().__call__(f, x, surrogates=surrogates, **rest)

    rule = ZOSGD(delta=2.0, estimator=Told(q=Q, mu=MU))
    theta, state = torch.ones(5, D), rule.begin(5, D)
    first = rule.step(Quadratics([0, 1, 2, 3, 4]), theta, state, iteration=0, draw=ImageDraw())
    rule.step(Quadratics([0, 1, 2, 3, 4]), first.theta, first.state, iteration=1, draw=ImageDraw())
    assert torch.equal(seen[0], torch.zeros(5, 2, D))
    assert torch.equal(seen[1], torch.stack([first.gradient, -2.0 / D * first.gradient], 1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["ZOSGD, gaussian", "ZOAdam, pairs", "ZOSZVRG, other snapshot", "ZO-LSTM", "ZOSignSGD, guided"]
)
def test_one_answer_that_is_not_finite_spoils_its_own_problem_alone(name, bad):
    rule = rules()[name][0].eval()

    def step(broken):
        def f(points):
            values = points.square().sum(2)
            values[1, -1] = bad if broken else values[1, -1]
            return values

        streams = ImageStreams(0, range(3))
        draw = lambda shape: streams.randn(torch.arange(3), shape)  # noqa: E731
        with torch.no_grad():
            return rule.step(f, torch.ones(3, D), rule.begin(3, D), iteration=0, draw=draw).theta

    broken, whole = step(True), step(False)
    assert not broken[1].isfinite().any() and torch.equal(broken[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_one_draw_a_problem_and_step_decides_between_the_variances(p):
    torch.manual_seed(0)
    batch, d, q = 4000, 3, 4
    rule = ZOSGD(delta=1.0, estimator=LearnedSampling(q=q, mu=1.0), query=QueryRNN(), p=p)
    with torch.no_grad():
        rule.query.output.weight.mul_(30)  # predictions that differ from 1
    state = rule.begin(batch, d) | {"gradient": torch.randn(batch, d)}
    noise, asked = torch.randn(batch, q, d), []
    gate = torch.randn(batch)

    def f(points):
        asked.append(points[:, 1:])
        return points.sum(2)

    def step():
        return rule.step(
            f, torch.zeros(batch, d), state, iteration=0, draw=lambda shape: gate if shape == () else noise
        )

    told = rule.eval() and step()
    ratio = asked[-1] / noise  # (batch, q, d)
    sigma = told.sigma.detach().abs().unsqueeze(1)
    followed = torch.isclose(ratio, sigma, rtol=1e-4).all(2).all(1)
    standard = torch.isclose(ratio, torch.ones(()), rtol=1e-4).all(2).all(1)
    assert bool((followed ^ standard).all())
    assert float(followed.float().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / batch) ** 0.5)
    rule.train()
    step()
    torch.testing.assert_close(asked[-1], sigma * noise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZOSGD(delta=0.0, estimator=GAUSSIAN), "delta, the learning rate times the dimension, must be > 0"),
        (lambda: ZOSGD(delta=float("inf"), estimator=GAUSSIAN), "finite, got inf"),
        (lambda: ZOSGD(delta=1.0, estimator=GAUSSIAN, p=1.2), r"p, the .*, must be in \[0, 1\], got 1.2"),
        (lambda: ZOSGD(delta=1.0, estimator=GAUSSIAN, query=QueryRNN()), "got the estimator RGE: take LearnedSampling"),
        (
            lambda: ZOAdam(delta=1.0, estimator=GAUSSIAN, betas=(0.9, 1.0)),
            r"betas must be in \[0, 1\), got \(0.9, 1.0\)",
        ),
        (lambda: ZOAdam(delta=1.0, estimator=GAUSSIAN, eps=0.0), "eps must be > 0, got 0.0"),
        (lambda: ZOSZVRG(delta=1.0, estimator=GAUSSIAN, snapshot=GAUSSIAN, epoch=0), "epoch must be at least 1"),
        (lambda: ZOSZVRG(delta=1.0, estimator=GAUSSIAN, snapshot=CGE(mu=1.0)), "must be a RGE .* got a CGE"),
        (lambda: LearnedOptimizer(update=UpdateRNN(), estimator=LEARNED, alpha=0.0), "alpha, .* must be > 0"),
        (lambda: LearnedOptimizer(update=UpdateRNN(), estimator=LEARNED, p=-0.1), r"in \[0, 1\], got -0.1"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
