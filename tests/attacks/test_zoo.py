import pytest
import torch
import torch.nn.functional as F

from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import ZOO
from zeroth.attacks.score.attack_space import AttackSpace
from zeroth.attacks.score.coordinate_solvers import CoordinateSolver
from zeroth.oracles import ScoreOracle, margin
from zeroth.oracles.trial import Trial

NET = random_linear(2, 16)
IMAGES = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
IMAGES = IMAGES[NET(IMAGES).diff(dim=1).abs().flatten().argsort()[-4:]]  # not too near the boundary
LABELS = NET(IMAGES).argmax(1)
SHORT = {"constant": 0.3, "searches": None, "iterations": 60, "learning_rate": 0.01, "patience": None}
MANY = random_linear(5, 192)  # more than 128 coordinates
WIDE = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.4 + 0.3
WIDE_LABELS = MANY(WIDE).argmax(1)
ATTACKS = [
    ZOO(),
    ZOO(variable="tanh", iterations=3, searches=None, accept="iterates", reset_adam=True),
    ZOO(solver="newton", h=0.05, learning_rate=0.5, constant=1.0, iterations=4, kappa=0.5),
    ZOO(solver="newton_adam", spaces=[2, 4, 8], schedule=[1, 2], importance=True, iterations=4, coordinates=20),
]
each = pytest.mark.parametrize("attack", ATTACKS, ids=repr)


def nearest(space: AttackSpace) -> torch.Tensor:
    """l_2 from the plane where the margin is 0, going only where D leads, (4,): the box is far away."""
    weight = (NET.weight[LABELS] - NET.weight[1 - LABELS]).double()
    value = NET(IMAGES).gather(1, LABELS[:, None])[:, 0] - NET(IMAGES).gather(1, 1 - LABELS[:, None])[:, 0]
    basis = torch.linalg.qr(space.upscale(torch.eye(space.size)).double().T).Q
    return (value / (weight @ basis).norm(dim=1)).float()


@pytest.mark.parametrize(
    ("options", "targeted"),
    [({}, False), ({}, True), ({"variable": "tanh", "learning_rate": 0.05}, False), ({"spaces": [3]}, False)],
    ids=repr,
)
def test_finds_the_nearest_point_of_a_linear_victim(options, targeted):
    targets = 1 - LABELS if targeted else None
    result = ZOO(**SHORT | options)(ScoreOracle(NET), IMAGES, LABELS, targets, budget=8000, seed=0)
    ratio = result.distance / nearest(AttackSpace(*options.get("spaces", [None]), (1, 4, 4), torch.device("cpu")))
    assert result.success.all() and (ratio >= 1 - 1e-4).all() and (ratio <= 1.02).all(), ratio


def test_newton_with_a_wide_difference_solves_a_quadratic_victim_in_one_iteration():
    """The margin is 3 + sum (x - b)^2: the least of |x - x_0|^2 + c margin lies at (x_0 + c b) / (1 + c)."""
    best = torch.full((16,), 0.6)

    def victim(images):
        hinge = 3 + (images.double().flatten(1) - best).square().sum(1)
        return torch.stack([hinge, 0 * hinge], 1)

    seen = Logging(victim)
    attack = ZOO(solver="newton", h=0.1, learning_rate=1.0, constant=0.5, searches=1, iterations=1)
    attack(ScoreOracle(seen), IMAGES[:1], torch.tensor([0]), budget=999, seed=0)
    assert seen.seen == 1 + 2 * 16 + 1
    assert torch.allclose(seen.asked[-1].flatten(), (IMAGES[0].flatten() + 0.5 * best) / 1.5, atol=1e-4)


def test_every_success_has_the_confidence_that_was_asked_for_and_pays_for_it():
    net = random_linear(4, 144)
    images = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    distances = []
    for kappa in (0.0, 5.0, 20.0):
        attack = ZOO(constant=0.5, searches=3, iterations=25, learning_rate=0.1, patience=None, kappa=kappa)
        result = attack(ScoreOracle(net), images, labels, budget=15_000, seed=0)
        assert result.success.all()
        assert (margin(net(result.adversarial).log_softmax(1), labels) <= -kappa).all()
        distances.append(result.distance)
    assert (distances[0] < distances[1]).all() and (distances[1] < distances[2]).all()


@pytest.mark.parametrize("budget", [1, 2, 3, 99, 100, 101, 257, 258, 600])
@pytest.mark.parametrize(("images", "coordinates"), [(WIDE, 128), (WIDE[:, :1], 64)])
def test_queries_are_counted_exactly(budget, images, coordinates):
    """A check; 2 probes a coordinate and the iterate an iteration; the last asks what pairs are left."""

    def hopeless(images):
        return torch.tensor([5.0, 0.0, 1.0]).expand(len(images), 3)

    victim = Logging(hopeless)
    attack = ZOO(patience=None)
    result = attack(ScoreOracle(victim), images, torch.zeros(6, dtype=torch.int64), budget=budget, seed=0)
    whole, left = divmod(budget - 1, 2 * coordinates + 1)
    expected = 1 + whole * (2 * coordinates + 1) + (2 * ((left - 1) // 2) + 1 if left >= 3 else 0)
    assert (result.queries == expected).all() and victim.seen == 6 * expected and budget - expected <= 2
    assert result.reason == ["budget"] * 6 and not result.success.any()


def test_an_iteration_is_the_probes_of_distinct_coordinates_and_their_iterate():
    victim = Logging(MANY)
    attack = ZOO(h=1e-3, learning_rate=0.02, kappa=1e3)  # out of reach: the hinge has a slope everywhere
    attack(ScoreOracle(victim), WIDE[:1], WIDE_LABELS[:1], budget=515, seed=0)
    asked, before = victim.asked.flatten(1), WIDE[0].flatten()
    assert len(asked) == 515
    for start in (1, 258):
        probes, after = (asked[start : start + 256] - before).reshape(128, 2, 192), asked[start + 256]
        touched = probes[:, 0].abs().argmax(1)
        assert len(touched.unique()) == 128
        expected = 1e-3 * F.one_hot(touched, 192)
        assert torch.allclose(probes[:, 0], expected, atol=1e-6) and torch.allclose(probes[:, 1], -expected, atol=1e-6)
        moved = after != before
        assert torch.equal(moved.nonzero().flatten(), touched.sort().values)
        if start == 1:  # Adam's first step is the learning rate, whatever the slope
            assert torch.allclose((after - before)[touched].abs(), torch.tensor(0.02), atol=1e-4)
        before = after


def test_a_rate_that_decays_falls_by_a_square_root_over_a_search():
    """Adam under a slope that outweighs the distortion moves each pixel by the rate; k counts from 0 in each search."""
    victim = Logging(Linear(torch.tensor([[0.0, 0], [9, -9]])))
    image = torch.full((1, 1, 1, 2), 0.5)
    attack = ZOO(h=0.01, learning_rate=0.02, decay=True, constant=1e3, searches=2, iterations=4, kappa=1e3)
    attack(ScoreOracle(victim), image, torch.tensor([0]), budget=41, seed=0)
    steps = victim.asked[5::5].flatten(1).diff(dim=0, prepend=image.flatten(1)).abs()  # 4 probes and the iterate
    expected = 0.02 * torch.tensor([1, 0.75, 0.5, 0.25]).sqrt()
    assert steps[:4].allclose(expected.unsqueeze(1).expand(4, 2), rtol=1e-3)
    assert steps[4].allclose(expected.sum() - expected[0], rtol=1e-3)  # back to the clean image, then the whole rate


def test_a_search_begins_anew_from_the_clean_image_with_adam_as_new():
    victim = Logging(NET)
    attack = ZOO(constant=1e-3, searches=3, iterations=2, learning_rate=1e-4, patience=None)
    result = attack(ScoreOracle(victim), IMAGES[:1], LABELS[:1], budget=9999, seed=0)
    assert result.reason == ["searches"] and int(result.queries) == victim.seen == 1 + 3 * 2 * 33
    first = victim.asked[[33, 99, 165]] - IMAGES[0]
    assert torch.allclose(first.abs(), torch.tensor(1e-4), atol=2e-6) and torch.allclose(first, first[:1], atol=1e-6)


def test_a_loss_that_stands_still_ends_a_search():
    """A constant victim's loss is c times its margin: the second look of each search ends it, after 10 iterations."""

    def constant(images):
        return torch.tensor([5.0, 0.0]).expand(len(images), 2)

    attack = ZOO(searches=3, iterations=20, patience=5)
    result = attack(ScoreOracle(constant), IMAGES[:1], torch.tensor([0]), budget=9999, seed=0)
    assert result.reason == ["searches"] and int(result.queries) == 1 + 3 * 10 * 33


def test_adam_is_reset_once_at_the_first_success_of_a_search(monkeypatch):
    resets = []
    plain = CoordinateSolver.reset
    monkeypatch.setattr(CoordinateSolver, "reset", lambda self, rows: (resets.extend(rows.tolist()), plain(self, rows)))
    for reset_adam, each_search in ((False, 1), (True, 2)):
        resets.clear()
        attack = ZOO(**SHORT | {"searches": 2}, reset_adam=reset_adam)
        result = attack(ScoreOracle(NET), IMAGES, LABELS, budget=9999, seed=0)
        assert result.success.all() and sorted(resets) == sorted(list(range(4)) * 2 * each_search)


def test_spaces_follow_one_another_and_keep_what_was_found():
    victim = Logging(MANY)
    attack = ZOO(spaces=[2, 4], schedule=[3], iterations=6, constant=1.0, importance=True, kappa=1e3)
    result = attack(ScoreOracle(victim), WIDE[:1], WIDE_LABELS[:1], budget=1 + 3 * 25 + 3 * 97, seed=0)
    assert int(result.queries) == victim.seen == 1 + 3 * 25 + 3 * 97  # 12 coordinates, then 48
    iterates = (victim.asked[[25, 50, 75, 172, 269, 366]] - WIDE[0]).flatten(1)
    left = []
    for side in (2, 4):
        basis = torch.linalg.qr(AttackSpace(side, (3, 8, 8), torch.device("cpu")).upscale(torch.eye(3 * side**2)).T).Q
        left.append((iterates - iterates @ basis @ basis.T).norm(dim=1) / iterates.norm(dim=1))
    assert (left[0][:2] < 1e-3).all() and (left[0][3:] > 0.05).all() and (left[1][2:] < 1e-3).all()
    assert torch.cosine_similarity(iterates[1], iterates[2], dim=0) > 0.8


@each
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 600])
def test_the_ledger_counts_what_the_victim_sees(attack, budget):
    victim = Logging(MANY)
    result = attack(ScoreOracle(victim), WIDE, WIDE_LABELS, budget=budget, seed=0)
    assert int(result.queries.sum()) == victim.seen and int(result.queries.max()) <= budget
    assert victim.asked.min() >= 0 and victim.asked.max() <= 1
    assert all(
        budget - spent <= 2 or why == "searches" for spent, why in zip(result.queries, result.reason, strict=True)
    )


@each
@pytest.mark.parametrize("targeted", [False, True])
def test_the_batch_changes_nothing_and_successes_hold(attack, targeted):
    targets = (WIDE_LABELS + 1) % 5 if targeted else None
    together = attack(ScoreOracle(MANY), WIDE, WIDE_LABELS, targets, budget=1200, seed=3)
    for i in (0, 3, 5):
        part = slice(i, i + 1)
        alone = attack(
            ScoreOracle(MANY, max_batch=7),
            WIDE[part],
            WIDE_LABELS[part],
            None if targets is None else targets[part],
            budget=1200,
            seed=3,
            indices=[i],
        )
        assert torch.equal(alone.queries, together.queries[part]) and torch.equal(alone.success, together.success[part])
        assert torch.allclose(alone.adversarial, together.adversarial[part], atol=1e-5)
    won, predicted = together.success, MANY(together.adversarial).argmax(1)
    assert torch.equal(predicted[won], together.predicted[won])
    assert (predicted[won] == targets[won] if targeted else predicted[won] != WIDE_LABELS[won]).all()


@each
def test_hopeless_and_wrong_rows_leave_their_neighbours_alone(attack):
    class Partly(torch.nn.Module):
        """Answers a dark image with a constant; the others as the linear victim does."""

        def forward(self, images):
            logits = MANY(images)
            dark = images.flatten(1).sum(1, keepdim=True) < 30
            return torch.where(dark, torch.tensor([9.0, 0, 0, 0, 0], dtype=logits.dtype), logits)

    images = torch.cat([WIDE, torch.zeros(1, 3, 8, 8), WIDE[:1]])
    labels = torch.cat([WIDE_LABELS, torch.tensor([0]), (WIDE_LABELS[:1] + 1) % 5])
    together = attack(ScoreOracle(Partly()), images, labels, budget=1000, seed=0)
    alone = attack(ScoreOracle(MANY), WIDE, WIDE_LABELS, budget=1000, seed=0)
    assert torch.equal(together.queries[:6], alone.queries) and torch.equal(together.success[:6], alone.success)
    assert torch.equal(together.adversarial[:6], alone.adversarial)
    assert not together.success[6:].any() and together.reason[6] in ("budget", "searches")
    assert together.reason[7] == "misclassified" and int(together.queries[7]) == 1


def test_points_exist_a_group_at_a_time(monkeypatch):
    """However many images are attacked, so many points are made at once as the trial asks at once: 1,024."""
    made, plain = [], Trial.query

    def spy(self, points, rows, *args, **options):
        if callable(points):
            source = points
            points = lambda part: made.append(len(source(part))) or source(part)  # noqa: E731
        return plain(self, points, rows, *args, **options)

    monkeypatch.setattr(Trial, "query", spy)
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ZOO()(ScoreOracle(MANY), images, MANY(images).argmax(1), budget=258, seed=0)
    assert made == [4, 4, 2]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 5, 4)])
def test_odd_shapes_end(shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    net = Linear(torch.randn(3, images[0].numel(), generator=torch.Generator().manual_seed(0)))
    for attack in (ZOO(), ATTACKS[3]):
        result = attack(ScoreOracle(net), images, net(images).argmax(1), budget=300, seed=0)
        assert (result.queries <= 300).all() and result.adversarial.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variable": "cube"}, "variable must be one of 'box', 'tanh', got 'cube'"),
        ({"solver": "sgd"}, "solver must be one of 'adam', 'newton', 'newton_adam', got 'sgd'"),
        ({"accept": "some"}, "accept must be one of 'all', 'iterates', got 'some'"),
        ({"h": 0.0}, r"h must lie in \(0, .5\]"),
        ({"coordinates": 0}, "coordinates must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"spaces": [0]}, "spaces must be at least 1, got 0"),
        ({"spaces": [8, 4], "schedule": [3]}, r"spaces must grow, got \[8, 4\]"),
        ({"spaces": [4, 8]}, "schedule must be rising iterations, one fewer than spaces"),
        ({"spaces": [2, 4, 8], "schedule": [3, 3]}, r"got \[3, 3\] for 3 spaces"),
        ({"schedule": [3]}, r"got \[3\] for 0 spaces"),
        ({"importance": True, "spaces": [4]}, "importance needs two spaces or more"),
        ({"constant": 0.0}, "constant must lie in"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ZOO(**options)
