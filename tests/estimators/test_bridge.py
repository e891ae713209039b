"""The bridge against autograd, closed forms and the books of an oracle.

Shapes: B rows, Q points, d coordinates, K classes.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.victims import Logging, random_linear
from zeroth.estimators import CGE, RGE, black_box, bridge
from zeroth.oracles import ImageStreams, ScoreOracle

B, D, K = 7, 5, 3
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
ESTIMATORS = [
    (RGE(q=4, mu=0.01), 5),
    (RGE(q=4, mu=0.01, distribution="gaussian"), 5),
    (RGE(q=4, mu=0.01, antithetic=True), 8),
    (CGE(mu=0.01), D + 1),
    (CGE(mu=0.01, scheme="central"), 2 * D),
]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def softmax_regression():
    torch.manual_seed(0)
    return nn.Linear(D, K).double()


def smooth_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, K)).double()


def stability(box, labels=LABELS):
    """The cross-entropy of a box's scores at points, row by row."""

    def f(points, part):
        scores = box(points.flatten(0, 1))
        keys = labels[part].repeat_interleave(points.shape[1])
        return F.cross_entropy(scores, keys, reduction="none").unflatten(0, points.shape[:2])

    return f


def quadratic(points, part):
    """x'x / 2: gradient x, and A = I."""
    return points.square().sum(2) / 2


def true_gradient(box, x):
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(box(x), LABELS, reduction="sum").backward()
    return x.grad


def bridged(f, x, estimator, **options):
    """Values, and the gradient that arrives at x from their sum."""
    x = x.detach().clone().requires_grad_()
    values = black_box(f, x, estimator, **options)
    values.sum().backward()
    return values.detach(), x.grad


class Books:
    """Keeps what a function is asked, and the slices."""

    def __init__(self, f):
        self.f, self.points, self.parts, self.asked = f, [], [], 0

    def __call__(self, points, part):
        self.points.append(points.clone())
        self.parts.append(part)
        self.asked += points.shape[:2].numel()
        return self.f(points, part)


@pytest.mark.parametrize("make", [softmax_regression, smooth_mlp])
@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("central", 2)])
def test_cge_is_autograd_to_its_order_in_mu(make, scheme, order):
    box, x = make(), numbers(B, D)
    exact = true_gradient(box, x)
    coarse, fine = (
        float((bridged(stability(box), x, CGE(mu=mu, scheme=scheme))[1] - exact).norm()) for mu in (1e-2, 1e-3)
    )
    assert coarse / fine == pytest.approx(10**order, rel=0.05)
    assert coarse < 0.1 * float(exact.norm())


@pytest.mark.parametrize(("scheme", "tolerance"), [("forward", 5e-3), ("central", 5e-4)])
def test_cge_is_autograd_in_float32_too(scheme, tolerance):
    """At mu = .01 an answer's rounding, 1e-7, is 1e-5 in a difference, below the orders' own errors."""
    box, x = smooth_mlp().float(), numbers(B, D, dtype=torch.float32)
    _, gradient = bridged(stability(box), x, CGE(mu=1e-2, scheme=scheme))
    exact = true_gradient(box, x)
    assert 0.2 * float(exact.abs().max()) > tolerance > float((gradient - exact).abs().max())


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_mean_of_rge_is_autograd_within_its_standard_error(antithetic):
    """The variance is the closed form of RGE's docstring; at mu = .02 terms of third order in mu are far below it."""
    box, x, count, q, mu = softmax_regression(), numbers(1, D, seed=3), 6000, 3, 0.02
    label = LABELS[:1]

    def loss(point):
        return F.cross_entropy(box(point.unsqueeze(0)), label)

    g = torch.autograd.functional.jacobian(loss, x[0])
    a = torch.autograd.functional.hessian(loss, x[0])
    _, estimates = bridged(
        stability(box, label.expand(count)),
        x.expand(count, D),
        RGE(q=q, mu=mu, antithetic=antithetic),
        draw=ImageStreams(0, range(count)).randn,
    )
    curvature = mu**2 * D / (4 * (D + 2)) * (a.trace() ** 2 + 2 * (a @ a).trace())
    variance = float(((D - 1) * g @ g + curvature * (not antithetic)) / q)
    error = estimates - g
    assert float(error.mean(0).norm()) < 3 * (variance / count) ** 0.5
    assert float(error.square().sum(1).mean()) == pytest.approx(variance, rel=0.06)


@pytest.mark.parametrize(("estimator", "each"), ESTIMATORS)
def test_a_row_costs_what_the_estimator_says_and_one_without_a_gradient(estimator, each):
    victim = Logging(random_linear(K, 9))
    oracle = ScoreOracle(victim, max_batch=4)
    decoder = nn.Sequential(nn.Linear(D, 9), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 3)))

    def f(points, part):
        log_p = oracle(decoder(points.flatten(0, 1))).unflatten(0, points.shape[:2])
        return -log_p.gather(2, LABELS[part].reshape(-1, 1, 1).expand(-1, points.shape[1], 1))[..., 0]

    x = numbers(B, D, dtype=torch.float32)
    assert estimator.queries(D) == each
    values, _ = bridged(f, x, estimator, rows=2)
    assert oracle.queries == victim.seen == B * each

    plain, leaf = [black_box(f, x, estimator)], x.clone().requires_grad_()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            plain.append(black_box(f, leaf, estimator, rows=2))
    assert oracle.queries == victim.seen == B * each + 3 * B
    expected = -oracle(decoder(x)).gather(1, LABELS.unsqueeze(1))[:, 0]
    for answer in plain:
        assert not answer.requires_grad and torch.allclose(answer, expected, atol=1e-6)
    assert torch.allclose(values, expected, atol=1e-6 if estimator.needs_value else 1e-3)


@pytest.mark.parametrize(("estimator", "each"), ESTIMATORS)
def test_x_is_asked_first_exactly_where_its_value_is_needed(estimator, each):
    books, x = Books(quadratic), numbers(B, D)
    values, _ = bridged(books, x, estimator)
    (points,) = books.points
    assert points.shape == (B, each, D)
    assert torch.equal(points[:, 0], x) == estimator.needs_value
    if estimator.needs_value:
        assert torch.equal(values, x.square().sum(1) / 2)
    else:  # the mean of x'x / 2 over x +- mu u is f(x) + mu^2 / 2, whatever the unit directions
        assert torch.allclose(values, x.square().sum(1) / 2 + estimator.mu**2 / 2, atol=1e-12)


@pytest.mark.parametrize(("estimator", "each"), ESTIMATORS)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_groups_of_rows_change_neither_values_nor_gradients_nor_draws(estimator, each, rows):
    weight = numbers(K, D, seed=5)

    def box(points):  # image by image, so that no rounding depends on the group
        return torch.stack([(points * w).sum(1) for w in weight], 1).tanh()

    runs = []
    for group in (None, rows):
        streams, drawn, books = ImageStreams(3, range(10, 10 + B)), [], Books(stability(box))

        def draw(places, shape, streams=streams, drawn=drawn):
            drawn.append(streams.randn(places, shape))
            return drawn[-1]

        runs.append((*bridged(books, numbers(B, D), estimator, draw=draw, rows=group), drawn, books))
    (values, gradient, drawn, whole), (theirs, slopes, pieces, books) = runs
    assert torch.equal(theirs, values) and torch.allclose(slopes, gradient, rtol=1e-12, atol=1e-13)
    assert len(drawn) == len(pieces) == 0 or torch.equal(torch.cat(drawn), torch.cat(pieces))
    assert torch.equal(torch.cat(whole.points), torch.cat(books.points))
    assert [len(points) for points in books.points] == [part.stop - part.start for part in books.parts]
    assert max(len(points) for points in books.points) == min(rows, B) and books.asked == B * each
    # Without a gradient a row is one point, so a group holds as many points in more rows.
    alone = Books(stability(box))
    with torch.no_grad():
        black_box(alone, numbers(B, D), estimator, rows=rows)
    assert max(len(points) for points in alone.points) == min(rows * each, B)


def test_the_points_of_a_default_group_are_bounded(monkeypatch):
    for bound, ends in ((2 * (D + 1) * D + 1, [2, 4, 6, 7]), (1, [1, 2, 3, 4, 5, 6, 7])):
        monkeypatch.setattr(bridge, "GROUP_NUMBERS", bound)
        books = Books(quadratic)
        bridged(books, numbers(B, D), CGE(mu=0.1))
        assert [part.stop for part in books.parts] == ends


def test_an_images_directions_depend_on_the_seed_and_the_image_alone():
    box, x, estimator = smooth_mlp(), numbers(B, D), RGE(q=3, mu=0.01)
    _, gradient = bridged(stability(box), x, estimator, draw=ImageStreams(0, range(B)).randn)
    order = torch.tensor([4, 1, 6])
    _, other = bridged(stability(box, LABELS[order]), x[order], estimator, draw=ImageStreams(0, order).randn, rows=2)
    assert torch.allclose(other, gradient[order], rtol=1e-9)
    _, reseeded = bridged(stability(box), x, estimator, draw=ImageStreams(1, range(B)).randn)
    assert bool(((reseeded - gradient).norm(dim=1) > 1e-3).all())


@pytest.mark.parametrize("estimator", [RGE(q=4, mu=0.01), CGE(mu=0.01)], ids=["rge", "cge"])
def test_what_makes_x_is_trained_as_by_equation_8(estimator):
    """The gradient in the encoder's weights is that of sum_b w_b a_b'z_b with the estimates a held fixed."""
    encoder, box, images = nn.Sequential(nn.Linear(6, D), nn.Tanh()).double(), smooth_mlp(), numbers(B, 6)
    weights = torch.linspace(-1, 2, B, dtype=torch.float64)
    z = encoder(images)
    values = black_box(stability(box), z, estimator, draw=ImageStreams(0, range(B)).randn)
    (weights * values).sum().backward()
    a = estimator(
        lambda points: stability(box)(points, slice(0, B)).detach(),
        z.detach(),
        draw=lambda shape: ImageStreams(0, range(B)).randn(torch.arange(B), shape).double(),
    )
    expected = torch.autograd.grad((weights.unsqueeze(1) * a * encoder(images)).sum(), list(encoder.parameters()))
    for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
        assert float(gradient.norm()) > 1e-3 and torch.allclose(parameter.grad, gradient, rtol=1e-9)


def test_the_box_receives_no_gradient():
    box, decoder, modes = smooth_mlp(), nn.Linear(D, D).double(), []

    def f(points, part):
        modes.append(torch.is_grad_enabled())
        return stability(nn.Sequential(decoder, box))(points, part)

    _, gradient = bridged(f, numbers(B, D), CGE(mu=0.01))
    assert modes == [False] and float(gradient.norm()) > 0
    assert [p.grad for p in (*box.parameters(), *decoder.parameters())] == [None] * 6


def test_under_autocast_the_estimate_is_the_one_outside_and_the_gradient_of_the_dtype_of_x():
    encoder, box, images = nn.Linear(6, D), smooth_mlp().float(), numbers(B, 6).float()
    books, estimator = Books(stability(box)), CGE(mu=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(images)
        z.retain_grad()
        values = black_box(books, z, estimator)
        values.sum().backward()
    assert z.dtype == z.grad.dtype == torch.bfloat16
    assert values.dtype == torch.float32 and {points.dtype for points in books.points} == {torch.float32}
    # At mu = .01 answers rounded to bfloat16 would make slopes in steps of .4, so equality proves float32 inside.
    expected, gradient = bridged(stability(box), z.float(), estimator)
    assert torch.equal(values.detach(), expected) and torch.equal(z.grad, gradient.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_gradient_has_the_dtype_of_x(dtype):
    x = numbers(B, D, dtype=dtype)
    values, gradient = bridged(quadratic, x, CGE(mu=0.5, scheme="central"), draw=ImageStreams(0, range(B)).randn)
    assert gradient.dtype == dtype and values.dtype == (dtype if dtype == torch.float64 else torch.float32)
    # In float32 the estimate of x'x / 2 is x to some 1e-6, within one rounding of a half-precision x.
    assert torch.allclose(gradient.double(), x.double(), rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {}, r"x must be floating-point numbers \(B >= 1, d >= 1\), got .* shape \(2, 3, 4\)"),
        (torch.zeros(0, 3), {}, r"x must be .* shape \(0, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int64), {}, r"x must be .* got torch.int64"),
        (torch.zeros(2, 3), {"rows": 0}, "rows must be at least 1 or None, got 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_asked(x, options, message):
    books = Books(quadratic)
    with pytest.raises(ValueError, match=message):
        black_box(books, x, CGE(mu=0.1), **options)
    assert books.asked == 0


def test_numbers_that_cannot_be_used_are_named():
    books, x = Books(quadratic), numbers(B, D)
    x[2, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"x is NaN or infinite in 1 of 7 rows.*diverged"):
        bridged(books, x, CGE(mu=0.1))
    assert books.asked == 0

    def f(points, part):
        answers = quadratic(points, part)
        answers[-1, 2] = torch.inf
        return answers

    with pytest.raises(FloatingPointError, match=r"f is NaN or infinite at 1 of 18 points \(rows 0 to 2\)"):
        bridged(f, numbers(B, D), CGE(mu=0.1), rows=3)
    with pytest.raises(ValueError, match=r"one value a point, \(7, 6\) for points \(7, 6, 5\), got \(42,\)"):
        bridged(lambda points, part: points.flatten(0, 1).sum(1), numbers(B, D), CGE(mu=0.1))
