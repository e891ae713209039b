"""Zeroth-order rules behind torch.optim: torch's Adam and schedules, exact queries, and on from a saved state."""

import io

import pytest
import torch
from torch import nn

from zeroth.estimators import CGE, RGE, LearnedSampling
from zeroth.networks import QueryRNN, UpdateRNN
from zeroth.optimizers import ZOSGD, ZOSZVRG, BlackBoxOptimizer, LearnedOptimizer, ZerothOrder, ZOAdam


def model(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2).double()


def linear_loss(network: nn.Linear, step: int) -> torch.Tensor:
    """Linear in the parameters, and another in each step."""
    inputs = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3) + 0.3 * step
    return (network(inputs) * torch.tensor([1.0, -2.0])).mean() * (-1.1) ** step


def groups(network: nn.Linear) -> list[dict]:
    return [{"params": [network.weight], "lr": 0.1}, {"params": [network.bias], "lr": 0.02}]


def test_by_coordinates_it_is_torchs_adam_with_groups_and_schedule():
    ours, theirs = model(), model()
    rule = ZOAdam(delta=1.0, estimator=CGE(mu=0.5), betas=(0.9, 0.996))
    one, two = BlackBoxOptimizer(groups(ours), rule=rule), torch.optim.Adam(groups(theirs), betas=(0.9, 0.996))
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5) for optimizer in (one, two)]
    for step in range(8):
        loss = one.step(lambda step=step: linear_loss(ours, step))
        two.zero_grad()
        expected = linear_loss(theirs, step)
        expected.backward()
        two.step()
        for schedule in schedules:
            schedule.step()
        assert loss == pytest.approx(expected.item(), abs=1e-12)
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)
    assert one.queries == 8 * (8 + 1) and one.steps == 8
    assert one.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def rules() -> list[ZerothOrder]:
    gaussian, learned = RGE(q=3, mu=1e-3, distribution="gaussian"), LearnedSampling(q=3, mu=1e-3)
    return [
        ZOSGD(delta=0.2, estimator=gaussian),
        ZOAdam(delta=0.2, estimator=gaussian),
        ZOSZVRG(delta=0.2, estimator=gaussian, snapshot=gaussian, epoch=4),
        LearnedOptimizer(update=UpdateRNN(), estimator=learned, query=QueryRNN()),
    ]


@pytest.mark.parametrize("which", range(4))
def test_a_loaded_state_goes_on_bit_by_bit_and_only_losses_are_asked(which):
    torch.manual_seed(0)
    rule, asked = rules()[which], []

    def train(network: nn.Linear, optimizer: BlackBoxOptimizer, steps: int) -> None:
        def closure():
            assert not torch.is_grad_enabled()
            asked.append(1)
            return network(torch.ones(4, 3)).square().sum()

        for _ in range(steps):
            optimizer.step(closure)

    whole = model().float()
    one = BlackBoxOptimizer(whole.parameters(), rule=rule, seed=5)
    assert one.param_groups[0]["lr"] == rule.learning_rate(8) and not rule.training
    train(whole, one, 6)
    assert one.queries == len(asked) == sum(rule.queries(8, step) for step in range(6))
    first = model().float()
    before = BlackBoxOptimizer(first.parameters(), rule=rule, seed=5)
    train(first, before, 3)
    saved = io.BytesIO()
    torch.save(before.state_dict(), saved)
    saved.seek(0)
    after = BlackBoxOptimizer(first.parameters(), rule=rule, seed=0, lr=7.0)
    after.load_state_dict(torch.load(saved, weights_only=True))
    train(first, after, 3)
    assert all(torch.equal(own, other) for own, other in zip(first.parameters(), whole.parameters(), strict=True))
    assert (after.steps, after.queries) == (6, one.queries)
    assert float((whole.weight - model().weight).detach().abs().max()) > 1e-4


def test_a_closure_that_fails_leaves_the_parameters():
    network = model()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = BlackBoxOptimizer(network.parameters(), rule=rules()[0])
    losses = iter([1.0, 2.0, float("nan")])
    with pytest.raises(FloatingPointError, match="the loss is nan at query 3, step 0: lower the learning rate"):
        optimizer.step(lambda: next(losses))
    assert all(torch.equal(own, old) for own, old in zip(network.parameters(), before, strict=True))
    assert (optimizer.steps, optimizer.queries) == (0, 3)


def test_bad_input_is_named():
    network, rule = model(), rules()[0]
    optimizer = BlackBoxOptimizer(network.parameters(), rule=rule)
    with pytest.raises(ValueError, match="step needs a closure that returns the loss"):
        optimizer.step()
    with pytest.raises(NotImplementedError, match="give all of them at once"):
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    with pytest.raises(ValueError, match="of another optimizer: rule ZOSGD here, got ZOAdam"):
        optimizer.load_state_dict(BlackBoxOptimizer(network.parameters(), rule=rules()[1]).state_dict())
    with pytest.raises(ValueError, match=r"sizes of parameters \[.*\] here, got \[3\]"):
        optimizer.load_state_dict(BlackBoxOptimizer([torch.zeros(3)], rule=rules()[0]).state_dict())
    with pytest.raises(ValueError, match="the state is of no BlackBoxOptimizer: it has no 'generator'"):
        optimizer.load_state_dict(torch.optim.SGD(network.parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="lr must be >= 0 or None, got -1"):
        BlackBoxOptimizer(network.parameters(), rule=rule, lr=-1.0)
    with pytest.raises(ValueError, match=r"seed must be >= 0 and below 2\^64, got -1"):
        BlackBoxOptimizer(network.parameters(), rule=rule, seed=-1)
    with pytest.raises(ValueError, match=r"floating-point numbers, got torch.complex64"):
        BlackBoxOptimizer([torch.zeros(2, dtype=torch.complex64)], rule=rule)
