"""Problems against their formulas, their draws against their neighbours, and their books.

Shapes: B problems, n of them at a time, Q points a problem, T iterations, d coordinates.
"""

import pytest
import torch
from torch import nn

from tests.victims import Logging, random_linear
from zeroth.oracles import GradientOracle, ImageStreams, ScoreOracle
from zeroth.problems import AttackProblems, BinaryClassification, Quadratics

B, SIDE, K = 5, 4, 3
D = SIDE * SIDE


def images_and_labels():
    images = torch.rand(B, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return images, random_linear(K, D)(images).argmax(1)


def attacks(model=None, kind=GradientOracle, **options):
    images, labels = images_and_labels()
    return AttackProblems(kind(model or random_linear(K, D)), images, labels, **options)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, K)).eval()


def slow_attack(problems, model, theta, row):
    """Eq. 6 by hand, in float64, of one image."""
    image, label = problems.images[row].double(), int(problems.labels[row])
    if problems.form == "clamp":
        x = (image + theta.double().view_as(image)).clamp(0, 1)
    else:
        x = (torch.tanh(torch.atanh(0.999999 * (2 * image - 1)) + theta.double().view_as(image)) + 1) / 2
    log_p = model.double()(x.unsqueeze(0))[0].log_softmax(0)
    others = torch.cat([log_p[:label], log_p[label + 1 :]])
    return (log_p[label] - others.max()).clamp_min(0) + problems.c * (x - image).abs().sum()


@pytest.mark.parametrize("form", ["clamp", "tanh"])
def test_an_attack_is_its_formula_and_so_is_its_gradient(form):
    model, c = network(), 0.1
    problems = attacks(model, form=form, c=c)
    problems.labels = network()(problems.images).argmax(1)  # those of this victim
    rows = torch.tensor([3, 0, 4])
    theta = 0.3 * torch.randn(3, 6, D, generator=torch.Generator().manual_seed(1))
    values = problems.function(rows)(theta)
    known, gradients = problems.gradient(theta, rows, torch.zeros(3, 6, dtype=torch.int64))
    reference = network()
    for n, row in enumerate(rows.tolist()):
        for q in range(6):
            point = theta[n, q].clone().requires_grad_()
            loss = slow_attack(problems, reference, point, row)
            (gradient,) = torch.autograd.grad(loss, point)
            assert values[n, q].item() == pytest.approx(loss.item(), abs=1e-5)
            assert torch.allclose(gradients[n, q], gradient, atol=1e-4)
    assert torch.equal(known, values) and problems.queries == problems.oracle.queries == 36
    assert (values == 0).sum() == 0 and (values < 0.1 * 40).sum() > 0
    assert torch.equal(problems.loss(theta[:, 2], rows), values[:, 2])


def test_the_first_loss_is_the_margin_and_a_solved_problem_is_one_whose_label_has_changed():
    problems = attacks()
    rows = torch.arange(B)
    log_p = ScoreOracle(random_linear(K, D))(problems.images)
    top = log_p.topk(2).values
    still = torch.zeros(B, D)
    assert torch.allclose(problems.loss(still, rows), top[:, 0] - top[:, 1], atol=1e-6)
    assert not problems.reached(problems.loss(still, rows), still, rows).any()
    far = problems.images[[1, 2, 3, 4, 0]].flatten(1) - problems.images.flatten(1)  # each becomes another image
    changed = problems.labels[[1, 2, 3, 4, 0]] != problems.labels
    assert changed.any() and torch.equal(problems.reached(problems.loss(far, rows), far, rows), changed)
    loss = problems.loss(far, rows)
    assert torch.allclose(loss[changed], 0.1 * far.abs().sum(1)[changed], atol=1e-5)  # the hinge is at its floor
    assert (problems.start.std() / 1e-4 - 1).abs() < 0.3


def test_a_smaller_theta_is_scaled_up_bilinearly():
    problems = attacks(size=(2, 2))
    assert problems.dimension == 4 and problems.start.shape == (B, 4)
    theta = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.0, 0.2, 0.0, 0.2]])
    added = problems.images_of(theta, torch.tensor([0, 1])) - problems.images[:2]
    # Bilinear weights of 2 -> 4 without aligned corners are 1, 3/4, 1/4, 0 of the left column.
    row = torch.tensor([0.0, 0.05, 0.15, 0.2])
    inside = problems.images[1] + row.expand(1, 4, 4) <= 1
    assert torch.allclose(added[1][inside], row.expand(1, 4, 4)[inside], atol=1e-6)
    assert added[0].max() <= 0.1 + 1e-6
    gradients = problems.gradient(theta.unsqueeze(1), torch.tensor([0, 1]), torch.zeros(2, 1, dtype=torch.int64))[1]
    assert gradients.shape == (2, 1, 4) and gradients.abs().sum() > 0


def test_a_point_that_is_not_finite_is_not_shown_to_the_victim_and_spoils_no_other():
    victim = Logging(random_linear(K, D))
    problems, rows = attacks(victim), torch.arange(2)
    points = torch.zeros(2, 3, D)
    points[0, 1, 5], points[1, 2] = torch.nan, torch.inf
    values = problems.function(rows)(points)
    assert values.isnan().nonzero().tolist() == [[0, 1], [1, 2]]
    assert victim.asked.isfinite().all() and victim.seen == problems.queries == 6
    assert problems.reached(values[:, 1], points[:, 1], rows).tolist() == [False, False]


def test_a_box_without_gradients_says_so():
    problems = attacks(kind=ScoreOracle)
    with pytest.raises(ValueError, match="true gradients need a GradientOracle, got a ScoreOracle"):
        problems.gradient(torch.zeros(1, 1, D), torch.tensor([0]), torch.zeros(1, 1, dtype=torch.int64))


def test_binary_classification_is_its_formula_on_the_minibatch_of_the_iteration():
    problems = BinaryClassification([7, 3, 11], dimension=6, samples=50, minibatch=8, seed=2)
    rows, iterations = torch.tensor([2, 0]), torch.tensor([4, 9])
    theta = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    chosen = problems.chosen(rows, iterations)
    assert all(len(set(line)) == 8 for line in chosen.tolist())
    values = problems.function(rows, iterations)(theta)
    whole = problems.loss(theta[:, 0], rows)
    for n, row in enumerate(rows.tolist()):
        data, labels = problems.data[row], problems.labels[row]
        errors = labels - 1 / (1 + torch.exp(-data @ theta[n].T)).T  # (Q, N)
        assert torch.allclose(values[n], errors[:, chosen[n]].square().mean(1), atol=1e-6)
        assert whole[n].item() == pytest.approx(errors[0].square().mean().item(), abs=1e-6)
    # Separable: along the truth every label is met. About half of the labels are 1.
    assert 0.2 < problems.labels.mean() < 0.8
    assert not torch.equal(problems.chosen(rows, iterations + 1), chosen)
    # Over iterations every sample comes up as often: 2,000 minibatches of 8 of 50, 320 +- 16 each.
    counts = problems.chosen(torch.zeros(2000, dtype=torch.int64), torch.arange(2000)).flatten().bincount()
    assert (counts - 320).abs().max() < 5 * 16.4


@pytest.mark.parametrize("kind", [Quadratics, BinaryClassification])
def test_a_problem_does_not_depend_on_its_neighbours(kind):
    options = {"dimension": 8, "seed": 3} | ({} if kind is Quadratics else {"samples": 40, "minibatch": 5})
    many, one = kind([4, 9, 2], **options), kind([9], **options)
    assert torch.equal(many.start[1], one.start[0])
    theta = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    ages = torch.tensor([5, 6, 7])
    both = many.function(torch.arange(3), ages)(theta), one.function(torch.tensor([0]), ages[1:2])(theta[1:2])
    assert torch.equal(both[0][1], both[1][0])
    known, gradients = many.gradient(theta, torch.arange(3), ages.unsqueeze(1).expand(3, 4))
    assert torch.allclose(known, both[0], atol=1e-6)
    step = 1e-2 * torch.eye(8)
    f = many.function(torch.arange(3), ages)
    numeric = (f(theta[:, :1] + step) - f(theta[:, :1] - step)) / 2e-2
    assert torch.allclose(gradients[:, 0], numeric, atol=2e-3)
    other = kind([9], **{**options, "seed": 4})
    assert not torch.equal(other.start, one.start)
    assert torch.equal(other.loss(theta[1:2, 0], torch.tensor([0])), one.loss(theta[1:2, 0], torch.tensor([0])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "sigmoid"}, "form must be 'clamp' or 'tanh', got 'sigmoid'"),
        ({"norm": "l0"}, "norm must be one of l1, l2, linf, got 'l0'"),
        ({"c": -1.0}, "c must be 0 or more, got -1.0"),
        ({"size": (0, 3)}, "size must be"),
        ({"start_scale": float("nan")}, "start_scale must be 0 or more, got nan"),
        ({"indices": [1, 2]}, "indices must be as many as images, 5, got 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        attacks(**options)
    with pytest.raises(ValueError, match="minibatch must be between 1 and samples=9, got 10"):
        BinaryClassification([0], samples=9, minibatch=10)


@pytest.mark.parametrize("kind", [Quadratics, BinaryClassification])
def test_each_round_has_starting_points_of_its_own(kind):
    problems = kind([4, 9], dimension=8, start_scale=0.5, seed=3)
    rows = torch.tensor([1, 0, 1])
    points = problems.starts(rows, torch.tensor([0, 2, 1]))
    assert torch.equal(points[0], problems.start[1]) and len(points.unique(dim=0)) == 3
    assert torch.equal(points[1:2], kind([4], dimension=8, start_scale=0.5, seed=3).starts(rows[1:2], 2))
    assert problems.starts(torch.zeros(4000, dtype=torch.int64), torch.arange(4000)).std().item() == pytest.approx(
        0.5, rel=0.02
    )


@pytest.mark.parametrize("kind", [Quadratics, BinaryClassification])
def test_data_are_drawn_apart_from_what_a_seed_of_zero_draws(kind):
    """Else an optimizer with that seed would ask along what the problem was made of."""
    problems = kind([4], dimension=8)
    held = problems.weight[0] * 8**0.5 if kind is Quadratics else problems.data[0]
    drawn = ImageStreams(0, [4]).randn(torch.arange(1), (30, 8))[0]
    assert torch.cdist(drawn, held).min() > 1e-3
