"""The promises of the query boundary, over random attacks, budgets and batch splits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.victims import Logging, Scatter, random_linear
from zeroth.attacks import AttackResult
from zeroth.oracles import GradientOracle, LabelOracle, ScoreOracle, distance

SIZE = 6
NET = random_linear(5, 16)
ORACLES = {"score": ScoreOracle, "label": LabelOracle}

scatters = st.fixed_dictionaries(
    {
        "width": st.integers(1, 6),
        "scale": st.sampled_from([0.05, 0.3, 1.0]),
        "norm": st.sampled_from(["l1", "l2", "linf"]),
        "epsilon": st.sampled_from([None, 0.2, 1.5]),
        "stop": st.booleans(),
        "lazy": st.booleans(),
        "quits": st.sampled_from([0.0, 0.1]),
    }
)
batches = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["score", "label"]),
        "seed": st.integers(0, 100),
        "max_batch": st.sampled_from([1, 3, 128]),
        "targeted": st.booleans(),
        "budget": st.lists(st.integers(1, 60), min_size=SIZE, max_size=SIZE),
        "wrong": st.sets(st.integers(0, SIZE - 1), max_size=2),
    }
)


def images_and_labels(seed: int, wrong: set[int]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(SIZE, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    labels = NET(images).argmax(1)
    labels[list(wrong)] = (labels[list(wrong)] + 1) % 5
    return images, labels


def attack(scatter, batch, part=slice(None), victim=None) -> tuple[AttackResult, Logging, torch.Tensor]:
    images, labels = images_and_labels(batch["seed"], batch["wrong"])
    targets = (labels + 2) % 5 if batch["targeted"] else None
    victim = victim or Logging(NET)
    oracle = ORACLES[batch["kind"]](victim, max_batch=batch["max_batch"])
    result = Scatter(oracle_type=type(oracle), **scatter)(
        oracle,
        images[part],
        labels[part],
        None if targets is None else targets[part],
        budget=torch.tensor(batch["budget"])[part],
        seed=7,
        indices=torch.arange(SIZE)[part],
    )
    return result, victim, labels


@settings(max_examples=60, deadline=None)
@given(scatters, batches)
def test_ledger_budget_box_ball_and_best(scatter, batch):
    result, victim, _ = attack(scatter, batch)
    assert (result.queries <= torch.tensor(batch["budget"])).all()
    assert int(result.queries.sum()) == victim.seen
    assert bool(((victim.asked >= 0) & (victim.asked <= 1)).all())
    answer = NET(result.adversarial).argmax(1)
    won = result.success
    assert torch.equal(answer, result.predicted)
    goal = answer == result.targets if batch["targeted"] else answer != result.labels
    assert bool(goal[won].all())
    delta = result.adversarial - result.images
    assert torch.equal(distance(delta, scatter["norm"])[won], result.distance[won])
    assert torch.isinf(result.distance[~won]).all() and not delta[~won].any()
    if scatter["epsilon"]:
        assert bool((result.distance[won] <= scatter["epsilon"] + 1e-5).all())
    first = NET(result.images).argmax(1)
    out = first == result.targets if batch["targeted"] else first != result.labels
    assert (result.queries[out] == 1).all() and not won[out].any()
    assert {result.reason[i] for i in out.nonzero().flatten().tolist()} <= {
        "already_target" if batch["targeted"] else "misclassified"
    }
    assert all(result.reason)


@settings(max_examples=30, deadline=None)
@given(scatters, batches, st.integers(1, SIZE - 1))
def test_splitting_the_batch_changes_no_row(scatter, batch, cut):
    whole, *_ = attack(scatter, batch)
    parts = AttackResult.concatenate(
        [attack(scatter, batch, slice(0, cut))[0], attack(scatter, batch, slice(cut, SIZE))[0]]
    )
    for name in ("success", "queries", "queries_to_success", "distance", "adversarial", "predicted"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert whole.reason == parts.reason
    marks = range(1, 61)
    assert torch.equal(whole.best_distance_at(marks), parts.best_distance_at(marks))


@settings(max_examples=30, deadline=None)
@given(scatters, batches, st.integers(0, SIZE - 1))
def test_the_curve_is_that_of_the_victims_own_log(scatter, batch, row):
    """One image alone: the slow obvious reference reads the curve off what the victim was really asked."""
    result, victim, labels = attack(scatter, batch, slice(row, row + 1))
    asked = victim.asked
    label, target = int(labels[row]), int((labels[row] + 2) % 5)
    best, curve = float("inf"), []
    for number, point in enumerate(asked):
        said = int(NET(point[None]).argmax())
        size = float(distance((point - asked[0])[None], scatter["norm"]))
        hit = said == target if batch["targeted"] else said != label
        if number > 0 and hit and (scatter["epsilon"] is None or size <= scatter["epsilon"]):
            best = min(best, size)
        curve.append(best)
    if "misclassified" not in result.reason and "already_target" not in result.reason:
        assert result.best_distance_at(range(1, len(asked) + 1))[:, 0].tolist() == pytest.approx(curve, abs=0)
        hits = [i for i, value in enumerate(curve, 1) if value < float("inf")]
        assert int(result.queries_to_success) == (hits[0] if hits else -1)


@settings(max_examples=20, deadline=None)
@given(scatters, batches, st.integers(5, 200))
def test_total_cap_is_never_exceeded_and_is_reported(scatter, batch, cap):
    images, labels = images_and_labels(batch["seed"], set())
    victim = Logging(NET)
    oracle = ORACLES[batch["kind"]](victim, max_batch=batch["max_batch"], max_queries=cap)
    result = Scatter(oracle_type=type(oracle), **scatter)(oracle, images, labels, budget=60, seed=1)
    assert int(result.queries.sum()) == victim.seen == oracle.queries <= cap
    unasked = result.queries == 0
    assert (result.predicted[unasked] == -1).all() and not result.success[unasked].any()
    assert {result.reason[i] for i in unasked.nonzero().flatten().tolist()} <= {"total_budget"}


def test_iterates_only_are_looked_at_when_the_attack_says_so():
    images, labels = images_and_labels(0, set())

    class Probing(Scatter):
        accept = "iterates"

        def run(self, trial):
            rows = trial.active
            far = 1 - trial.images[rows].round()  # the opposite corner: another class for a centred linear victim
            trial.query(far.unsqueeze(1), rows, iterate=False)
            assert not trial.ledger.success.any()
            trial.query(far.unsqueeze(1), trial.active)

    result = Probing()(ScoreOracle(NET), images, labels, budget=9, seed=0)
    assert result.success.all() and (result.queries_to_success == 3).all()


def test_kappa_asks_for_confidence():
    images, labels = images_and_labels(0, set())
    plain = Scatter(scale=1.0)(ScoreOracle(NET), images, labels, budget=300, seed=0)
    sure = Scatter(scale=1.0)
    sure.kappa = 1.5
    result = sure(ScoreOracle(NET), images, labels, budget=300, seed=0)
    log_p = NET(result.adversarial).log_softmax(1)
    margins = log_p.gather(1, labels[:, None])[:, 0] - log_p.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert result.success.any()
    assert (margins[result.success] <= -1.5 + 1e-6).all()
    assert (result.queries_to_success[result.success] >= plain.queries_to_success[result.success]).all()


def test_what_was_not_asked_answers_nan_or_minus_one_and_meets_no_goal():
    images, labels = images_and_labels(0, set())

    class Ragged(Scatter):
        def run(self, trial):
            rows = trial.active
            count = torch.tensor([0, 1, 2, 3, 3, 3])
            answers = trial.query(trial.images.unsqueeze(1).expand(-1, 3, -1, -1, -1), rows, count)
            blank = answers.isnan().all(2) if answers.ndim == 3 else answers == -1
            assert torch.equal(blank, torch.arange(3) >= count[:, None])
            assert torch.equal(trial.ledger.queries, count + 1)
            trial.retire(rows[:1], "tired")
            assert not trial.adversarial(1 - trial.images.unsqueeze(1).round(), rows)[0].any()

    for kind in ORACLES.values():
        result = Ragged(oracle_type=kind)(kind(NET), images, labels, budget=20, seed=0)
        assert result.queries.tolist() == [1, 3, 4, 5, 5, 5]
        assert result.reason[0] == "tired"


class Downhill(Scatter):
    """Asks gradients of its own objective, then a plain point: both kinds of white-box query."""

    def run(self, trial):
        while len(rows := trial.active):
            points = trial.images[rows] + 0.3 * trial.randn(rows, tuple(trial.images.shape[1:]))
            answers, gradients = trial.gradient(points.double(), rows, lambda log_p, theirs: log_p[:, 0] * theirs)
            blank = answers.isnan().all(1)
            assert torch.equal(blank, gradients.flatten(1).isnan().all(1))
            p = NET(points.clamp(0, 1)).softmax(1)
            weight = NET.weight
            expected = rows[:, None] * (weight[0] - p @ weight)  # d log p_0 / d x of a linear victim
            assert torch.allclose(gradients.flatten(1)[~blank].double(), expected[~blank], atol=1e-5)
            rows, gradients = trial.keep(rows, gradients)
            trial.query((trial.images[rows] - gradients).unsqueeze(1), rows)


@pytest.mark.parametrize("cap", [None, 17])
@pytest.mark.parametrize("max_batch", [2, 128])
def test_white_box_queries_are_counted_alike(cap, max_batch):
    images, labels = images_and_labels(0, {2})
    victim = Logging(NET)
    oracle = GradientOracle(victim, max_batch=max_batch, max_queries=cap)
    budgets = torch.tensor([1, 2, 9, 4, 5, 12])
    result = Downhill(oracle_type=GradientOracle, stop=False)(oracle, images, labels, budget=budgets, seed=0)
    assert int(result.queries.sum()) == victim.seen == oracle.queries <= (cap or 99)
    assert (result.queries <= budgets).all() and int(result.queries[2]) == 1
    assert cap or result.queries.tolist() == [1, 2, 1, 4, 5, 12]
    assert all(len(batch) <= max_batch for batch in victim.batches)


def test_the_first_gradient_is_that_of_the_margin():
    images, labels = images_and_labels(0, set())

    class First(Scatter):
        def run(self, trial):
            log_p = NET(images).log_softmax(1)
            other = log_p.scatter(1, labels[:, None], -torch.inf).argmax(1)
            expected = NET.weight[labels] - NET.weight[other]
            assert torch.allclose(trial.start_gradient.flatten(1).double(), expected, atol=1e-5)
            assert (trial.ledger.queries == 1).all()
            trial.retire(trial.active, "seen")

    assert (
        First(oracle_type=GradientOracle)(GradientOracle(NET), images, labels, budget=9, seed=0).reason == ["seen"] * 6
    )


def test_slices_change_nothing(monkeypatch):
    images, labels = images_and_labels(3, {1})
    whole = Scatter()(ScoreOracle(NET), images, labels, budget=50, seed=0)
    updates = []
    monkeypatch.setattr("zeroth.attacks.attack.SLICE_PIXELS", 2 * 4 * 16)  # two images a slice
    sliced = Scatter()(ScoreOracle(NET), images, labels, budget=50, seed=0, progress=updates.append)
    assert torch.equal(whole.queries, sliced.queries)
    assert torch.equal(whole.best_distance_at(range(50)), sliced.best_distance_at(range(50)))
    assert (updates[-1].queries, updates[-1].finished, updates[-1].total) == (int(whole.queries.sum()), 6, 6)
    assert updates[-1].successes == int(whole.success.sum())
    assert [u.queries for u in updates] == sorted(u.queries for u in updates)
