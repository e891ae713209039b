"""First order through an oracle against plain autograd, and against the estimates that it stands beside.

Shapes: B images, K classes.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.victims import Logging, random_linear
from zeroth.estimators import CGE, black_box, first_order, with_gradient
from zeroth.oracles import GradientOracle, ImageGradientOracle, QueryCapError, VictimError

B, K = 7, 4
LABELS = torch.tensor([0, 3, 1, 2, 2, 0, 1])


def pixels(seed=0):
    return torch.rand(B, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, K))


def reconstructor(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh())


def decoder(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 9), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 3)))


def stability(log_p, part):
    return F.nll_loss(log_p, LABELS[part], reduction="none")


def reconstruction(answers, part):
    wanted = torch.linspace(0, 1, B)[part].reshape(-1, 1, 1, 1)
    return (answers - wanted).square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("kind", "net", "objective"),
    [
        (GradientOracle, classifier(), lambda answers, part: stability(answers.log_softmax(1), part)),
        (ImageGradientOracle, reconstructor(), reconstruction),
    ],
)
@pytest.mark.parametrize("max_batch", [3, 100])
def test_values_and_gradients_are_those_of_autograd_at_one_query_an_image(kind, net, objective, max_batch):
    make, z = decoder(), torch.randn(B, 3, generator=torch.Generator().manual_seed(2))
    weights = torch.linspace(-1, 2, B)
    victim = Logging(net)
    oracle = kind(victim, max_batch=max_batch)
    values = first_order(oracle, make(z), objective)
    (weights * values).sum().backward()
    assert oracle.queries == victim.seen == B and max(map(len, victim.batches)) == min(max_batch, B)
    assert [p.grad for p in net.parameters()] == [None] * len(list(net.parameters()))

    expected = objective(net(make(z)), slice(0, B))
    gradients = torch.autograd.grad((weights * expected).sum(), list(make.parameters()))
    assert torch.allclose(values, expected, atol=1e-6)
    for parameter, gradient in zip(make.parameters(), gradients, strict=True):
        assert float(gradient.norm()) > 1e-4 and torch.allclose(parameter.grad, gradient, atol=1e-6)

    with torch.no_grad():
        plain = first_order(oracle, make(z), objective)
    assert oracle.queries == victim.seen == 2 * B
    assert not plain.requires_grad and torch.allclose(plain, values.detach(), atol=1e-6)
    assert not first_order(oracle, pixels(), objective).requires_grad


def test_clamped_pixels_receive_no_gradient_and_unclamped_boxes_give_theirs():
    net, images = classifier(), pixels() * 3 - 1
    for clamp, asked in ((True, lambda x: x.clamp(0, 1)), (False, lambda x: x)):
        x, twin = images.clone().requires_grad_(), images.clone().requires_grad_()
        first_order(GradientOracle(net, clamp=clamp), x, stability).sum().backward()
        stability(net(asked(twin)).log_softmax(1), slice(0, B)).sum().backward()
        assert torch.allclose(x.grad, twin.grad, atol=1e-6)
        assert bool((x.grad[(images < 0) | (images > 1)] == 0).all()) == clamp


def test_a_first_and_a_zeroth_order_defence_train_the_same_encoder_the_same_way():
    """Central differences of the same box err by mu^2: the encoder's gradients agree to what that allows."""
    net, make = classifier(), decoder()
    torch.manual_seed(5)
    encoder = nn.Linear(9, 3)
    oracle = GradientOracle(net)

    def f(points, part):
        log_p = oracle(make(points.flatten(0, 1)))
        keys = LABELS[part].repeat_interleave(points.shape[1])
        return F.nll_loss(log_p, keys, reduction="none").unflatten(0, points.shape[:2])

    z = encoder(pixels().flatten(1))
    (first,) = torch.autograd.grad(first_order(oracle, make(z), stability).mean(), encoder.weight, retain_graph=True)
    assert oracle.queries == B
    zeroth_order = black_box(f, z, CGE(mu=0.01, scheme="central"))
    (zeroth,) = torch.autograd.grad(zeroth_order.mean(), encoder.weight)
    assert oracle.queries == B + B * 2 * 3
    assert float((first - zeroth).norm()) < 1e-3 * float(first.norm())


def test_autocast_changes_nothing_and_half_precision_images_get_their_dtype_back():
    net, images = classifier(), pixels().bfloat16()
    x, twin = images.clone().requires_grad_(), images.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = first_order(GradientOracle(net), x, stability)
        values.sum().backward()
    expected = first_order(GradientOracle(net), twin, stability)
    expected.sum().backward()
    assert values.dtype == torch.float32 and torch.equal(values, expected)
    assert x.grad.dtype == torch.bfloat16 and torch.equal(x.grad, twin.grad.bfloat16())


def test_a_given_gradient_reaches_x_of_any_shape():
    x = torch.zeros(2, 1, 2, 2, requires_grad=True)
    gradients = torch.arange(8.0).reshape(2, 1, 2, 2)
    values = with_gradient(x, torch.tensor([3.0, 4.0]), gradients)
    assert values.tolist() == [3.0, 4.0]
    (values * torch.tensor([10.0, -1.0])).sum().backward()
    assert torch.equal(x.grad, gradients * torch.tensor([10.0, -1.0]).reshape(2, 1, 1, 1))


def test_double_backward_is_refused_of_both():
    """Also where a plain sum hands the values a constant, whose graph would end before the box without a word."""
    encoder, make = nn.Sequential(nn.Linear(9, 3), nn.Tanh()), decoder()
    z = encoder(pixels().flatten(1))
    estimated = black_box(lambda points, part: points.square().sum(2), z, CGE(mu=0.01))
    for values in (first_order(GradientOracle(classifier()), make(z), stability), estimated):
        for loss in (values.sum(), values.square().mean()):
            with pytest.raises(RuntimeError, match=r"differentiated once.*create_graph=True"):
                torch.autograd.grad(loss, list(encoder.parameters()), create_graph=True, retain_graph=True)


def test_faults_are_named():
    net, x = classifier(), pixels().requires_grad_()
    with pytest.raises(ValueError, match=r"images must have shape \(B >= 1, C, H, W\), got \(7, 9\)"):
        first_order(GradientOracle(net), x.flatten(1), stability)
    with pytest.raises(ValueError, match=r"objective must return one value an image, \(7,\) .* got \(\)"):
        first_order(GradientOracle(net), x, lambda answers, part: answers.sum())
    with pytest.raises(VictimError, match="answered without a gradient: GradientOracle needs"):
        first_order(GradientOracle(lambda images: random_linear(K, 9)(images.detach())), x, stability)
    with pytest.raises(QueryCapError, match="max_queries=6"):
        first_order(GradientOracle(net, max_queries=6), x, stability)
