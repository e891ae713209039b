import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import FGM, IFGM
from zeroth.oracles import GradientOracle


class Curved(torch.nn.Module):
    """A smooth victim whose gradient turns: tanh units between two linear maps, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = random_linear(12, 16, seed=1), random_linear(4, 12, seed=2)

    def forward(self, images):
        return self.second((self.first(images) / 3).tanh())


NET = Curved()
IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
LABELS = NET(IMAGES).argmax(1)


@pytest.mark.parametrize(("norm", "order", "unit"), [("linf", 0, 0.01), ("l2", 2, 0.05), ("l1", 1, 0.2)])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_runs_against_a_slow_reference(norm, order, unit, loss):
    """Replays each run of 4 steps of epsilon / 4, clipped to the ball, by autograd on the victim itself."""
    steps, label = 4, int(LABELS[0])
    attack = IFGM(norm=norm, largest=unit * 20, points=20, stride=1, steps=steps, loss=loss, accept="iterates")
    victim = Logging(NET)
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=200, seed=0)
    place, clean, found = 1 + (loss == "cross_entropy"), IMAGES[0].double(), 0
    for k in range(1, 21):
        at = clean
        for _ in range(steps):
            x = at[None].clone().requires_grad_()
            log_p = NET(x).log_softmax(1)[0]
            other = torch.cat([log_p[:label], log_p[label + 1 :]]).amax()
            (g,) = torch.autograd.grad(log_p[label] - (other if loss == "margin" else 0), x)
            g = g[0].sign() if order == 0 else g[0] / g.abs().pow(order).sum() ** (1 / order)
            delta = at - unit * k / steps * g - clean
            if order == 0:
                delta = delta.clamp(-unit * k, unit * k)
            else:
                delta = delta * min(1.0, unit * k / float(delta.abs().pow(order).sum() ** (1 / order)))
            at = (clean + delta).clamp(0, 1)
            assert torch.allclose(victim.asked[place].double(), at, atol=1e-5)
            at = victim.asked[place].double()
            place += 1
        if int(NET(at[None]).argmax(1)) != label:
            found = k
            break
    assert found > 1 and result.reason == ["success"] and victim.seen == place
    assert torch.equal(result.adversarial[0].double(), at)


def test_one_step_is_fgm():
    for norm in ("linf", "l2", "l1"):
        runs = [
            attack(GradientOracle(NET), IMAGES, LABELS, budget=1001, seed=0)
            for attack in (FGM(norm=norm, stride=20), IFGM(norm=norm, stride=20, steps=1))
        ]
        assert torch.allclose(runs[0].adversarial, runs[1].adversarial, atol=1e-6) and runs[0].success.all()


def test_queries_are_whole_runs_and_early_successes_shorten_them():
    paper = IFGM(steps=5, stride=1, points=30, largest=0.6, accept="iterates")
    result = paper(GradientOracle(NET), IMAGES, LABELS, budget=500, seed=0)
    assert result.success.all() and ((result.queries - 1) % 5 == 0).all()
    assert torch.equal(result.queries, result.queries_to_success)
    ours = IFGM(steps=5, stride=1, points=30, largest=0.6)(GradientOracle(NET), IMAGES, LABELS, budget=500, seed=0)
    assert (ours.queries <= result.queries).all() and ours.success.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l0"}, "norm must be 'linf', 'l2' or 'l1', got 'l0'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"stride": 0}, "stride must lie in 1..points"),
        ({"accept": "some"}, "accept must be 'all' or 'iterates', got 'some'"),
        ({"loss": "hinge"}, "loss must be"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        IFGM(**options)
