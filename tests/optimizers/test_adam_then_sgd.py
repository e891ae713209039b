"""Adam, then SGD: the steps of torch's own, at the schedule's rate, and on from a saved state."""

import copy

import pytest
import torch
from torch import Tensor

from zeroth.optimizers import AdamThenSGD

TARGET = torch.tensor([3.0, -1.0, 0.5])


def train(optimizer: torch.optim.Optimizer, weight: Tensor, steps: int, schedule=None) -> list[Tensor]:
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        ((weight - TARGET) ** 2 * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        path.append(weight.detach().clone())
    return path


def test_its_steps_are_those_of_torch():
    """Four of Adam, then five of SGD with momentum; a schedule divides the rate by ten after the sixth."""
    ours, theirs = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    one = AdamThenSGD([ours], lr=0.1, adam_steps=4, momentum=0.9, weight_decay=0.01)
    path = train(one, ours, 9, torch.optim.lr_scheduler.MultiStepLR(one, [6], gamma=0.1))
    expected = train(torch.optim.Adam([theirs], lr=0.1, weight_decay=0.01), theirs, 4)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    expected += train(sgd, theirs, 5, torch.optim.lr_scheduler.MultiStepLR(sgd, [2], gamma=0.1))
    assert all(torch.equal(own, other) for own, other in zip(path, expected, strict=True))
    assert len({tuple(point.tolist()) for point in path}) == 9


@pytest.mark.parametrize("cut", [2, 4, 7])
def test_a_loaded_state_goes_on(cut):
    whole = torch.zeros(3, requires_grad=True)
    path = train(AdamThenSGD([whole], lr=0.1, adam_steps=4, momentum=0.9), whole, 9)
    first = torch.zeros(3, requires_grad=True)
    before = AdamThenSGD([first], lr=0.1, adam_steps=4, momentum=0.9)
    train(before, first, cut)
    state = copy.deepcopy(before.state_dict())
    second = first.detach().clone().requires_grad_()
    after = AdamThenSGD([second], lr=7.0, adam_steps=4, momentum=0.9)
    after.load_state_dict(state)
    rest = train(after, second, 9 - cut)
    assert all(torch.equal(own, other) for own, other in zip(rest, path[cut:], strict=True))


def test_bad_input_is_named():
    weight = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="adam_steps must be 0 or more, got -1"):
        AdamThenSGD([weight], lr=0.1, adam_steps=-1)
    with pytest.raises(NotImplementedError, match="give all of them at once"):
        AdamThenSGD([weight], lr=0.1, adam_steps=1).add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
