"""ZO-LSTM's step, and along which paths its networks learn: against a chain of the same numbers as constants."""

import pytest
import torch

from zeroth.estimators import GuidedES, LearnedSampling
from zeroth.networks import QueryRNN, UpdateRNN
from zeroth.optimizers import LearnedOptimizer, Step

B, D, STEPS = 2, 6, 4
WEIGHTS = torch.arange(1.0, STEPS + 1).double().view(-1, 1, 1) * torch.linspace(-1, 1, D).double()


@pytest.fixture
def networks() -> tuple[UpdateRNN, QueryRNN]:
    torch.manual_seed(0)
    update, query = UpdateRNN().double(), QueryRNN().double()
    with torch.no_grad():
        query.output.weight.mul_(200)  # predictions far from 1, some of them negative
    return update, query


def unrolled(rule: LearnedOptimizer, inside: torch.Tensor) -> list[Step]:
    """Some steps in training mode on a function with a parameter of its own, and a theta that asks for gradients."""
    generator = torch.Generator().manual_seed(1)
    state = rule.train().begin(B, D, dtype=torch.float64)
    theta, steps = torch.ones(B, D, dtype=torch.float64, requires_grad=True), []
    for iteration in range(STEPS):
        steps += [
            rule.step(
                lambda points: (points.square() * inside).sum(2),
                steps[-1].theta if steps else theta,
                state,
                iteration=iteration,
                draw=lambda shape: torch.randn(B, *shape, generator=generator, dtype=torch.float64),
            )
        ]
        state = steps[-1].state
    return steps


def gradients(steps: list[Step], parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    thetas = torch.stack([step.theta for step in steps])
    return list(torch.autograd.grad((WEIGHTS.unsqueeze(1) * thetas.unsqueeze(1)).sum(), parameters))


@pytest.mark.parametrize("with_query", [False, True])
def test_networks_learn_through_updates_memory_and_sigma_alone(networks, with_query):
    """Chain: constants m_t; g_t = |sigma_t| m_t; sigma_t from constant g, delta of before; theta the sum of updates."""
    update, query = networks
    inside = torch.ones(D, dtype=torch.float64, requires_grad=True)
    sampling = LearnedSampling(q=3, mu=1e-3)
    rule = LearnedOptimizer(update=update, estimator=sampling, query=query if with_query else None, alpha=0.5)
    steps = unrolled(rule, inside)
    parameters = [*update.parameters(), *(query.parameters() if with_query else [])]
    found = gradients(steps, parameters)

    memory, asked = update.begin(B, D), query.begin(B, D)
    theta = torch.ones(B, D, dtype=torch.float64)
    last_g = last_delta = torch.zeros_like(theta)
    loss = torch.zeros((), dtype=torch.float64)
    for step, weight in zip(steps, WEIGHTS, strict=True):
        g = step.gradient.detach()
        if with_query:
            sigma, _, asked = query(last_g, last_delta, asked)
            torch.testing.assert_close(sigma, step.sigma)
            g = sigma.abs() * (g / sigma.detach().abs())
        last_g, last_delta = step.gradient.detach(), step.update.detach()
        delta, memory = update(g, memory)
        theta = theta + 0.5 * delta
        torch.testing.assert_close(theta, step.theta.detach())
        loss = loss + (weight * theta).sum()
    for own, expected in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(own, expected)
        assert float(expected.abs().max()) > 1e-6
    # f holds nothing of the graph: its own parameter is out of it.
    thetas = torch.stack([step.theta for step in steps])
    assert torch.autograd.grad(thetas.sum(), inside, allow_unused=True) == (None,)
    assert not with_query or any(bool((step.sigma < 0).any()) for step in steps)


def test_a_detached_state_ends_the_window(networks):
    """What a window teaches does not reach back behind tensors that were detached."""
    update, query = networks
    rule = LearnedOptimizer(update=update, estimator=LearnedSampling(q=3, mu=1e-3), query=query)
    steps = unrolled(rule, torch.ones(D, dtype=torch.float64))
    state = {key: held.detach() for key, held in steps[-1].state.items()}
    draw = torch.randn(B, 3, D, dtype=torch.float64)
    after = rule.step(
        lambda points: points.square().sum(2), steps[-1].theta.detach(), state, iteration=STEPS, draw=lambda shape: draw
    )
    (again,) = torch.autograd.grad(after.theta.sum(), update.cell.weight_ih, retain_graph=True)
    assert float(again.abs().max()) > 0
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(after.theta.sum(), steps[0].update)


def test_alpha_scales_the_update_and_a_rate_replaces_it(networks):
    update, _ = networks
    theta = torch.ones(B, D, dtype=torch.float64)
    draw = torch.randn(B, 3, D, dtype=torch.float64)
    moved = []
    for alpha, lr in ((1.0, None), (0.25, None), (1.0, 0.25)):
        rule = LearnedOptimizer(update=update, estimator=GuidedES(q=3, mu=1e-3), alpha=alpha)
        noise = {(3, D): draw, (3, 2): draw[:, :, :2]}
        step = rule.step(
            lambda points: points.square().sum(2),
            theta,
            rule.begin(B, D, dtype=torch.float64),
            iteration=0,
            draw=noise.__getitem__,
            lr=lr,
        )
        expected, _ = update(step.gradient, update.begin(B, D))
        torch.testing.assert_close(step.update, (alpha if lr is None else lr) * expected)
        moved.append(step.update)
    torch.testing.assert_close(moved[1], 0.25 * moved[0])
    assert torch.equal(moved[1], moved[2])


def test_one_module_holds_both_networks(networks):
    update, query = networks
    rule = LearnedOptimizer(update=update, estimator=LearnedSampling(q=3, mu=1e-3), query=query)
    assert sum(parameter.numel() for parameter in rule.parameters()) == 940
    assert {key.partition(".")[0] for key in rule.state_dict()} == {"update", "query"}
    with pytest.raises(ValueError, match=r"hidden is 4 in this UpdateRNN, and 10 in the checkpoint"):
        LearnedOptimizer(
            update=UpdateRNN(hidden=4), estimator=LearnedSampling(q=3, mu=1e-3), query=QueryRNN()
        ).load_state_dict(rule.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_and_the_networks_dtype_change_no_step(dtype):
    """Differences and networks are in float32 inside a trainer of mixed precision; theta keeps its own dtype."""
    torch.manual_seed(0)
    rule = LearnedOptimizer(update=UpdateRNN(), estimator=LearnedSampling(q=3, mu=1e-3), query=QueryRNN())
    weight, noise, taken = torch.randn(D, D, dtype=dtype), torch.randn(B, 3, D), []
    for enabled in (False, True):
        theta, state = torch.ones(B, D, dtype=dtype), rule.begin(B, D, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for iteration in range(2):
                step = rule.step(
                    lambda points: (points @ weight).square().sum(2),
                    theta,
                    state,
                    iteration=iteration,
                    draw=lambda shape: noise,
                )
                theta, state = step.theta, step.state
        taken.append(theta)
        assert theta.dtype == step.gradient.dtype == state["gradient"].dtype == dtype
    assert torch.equal(*taken)
