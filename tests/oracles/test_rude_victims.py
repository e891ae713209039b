"""Victims that do what real ones do: change their input, reuse a buffer, overflow, abstain, run in half precision."""

import math

import numpy as np
import pytest
import torch

from tests.victims import Logging, Scatter, random_linear
from zeroth.attacks import ZONGD
from zeroth.oracles import GradientOracle, Journal, LabelOracle, ScoreOracle, VictimError
from zeroth.oracles.scores import classes_of

NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)


def run(oracle, journal=None):
    return Scatter(oracle_type=type(oracle))(oracle, IMAGES, LABELS, budget=40, seed=0, journal=journal)


@pytest.mark.parametrize("style", ["tensor", "numpy"])
def test_a_victim_that_normalises_in_place_is_attacked_as_its_polite_twin(tmp_path, style):
    def rude(images):
        values = images.numpy() if style == "numpy" else images
        values -= 0.5
        values *= 3
        return NET(torch.as_tensor(values))

    polite = ScoreOracle(lambda images: NET((images - 0.5) * 3))
    expected = run(polite)
    for _ in range(2):  # the second time out of the journal, which hashes what was asked
        journal = Journal.open(tmp_path / "j", {})
        result = run(ScoreOracle(rude), journal)
        journal.close()
        assert torch.equal(result.success, expected.success) and torch.equal(result.queries, expected.queries)
        assert torch.equal(result.adversarial, expected.adversarial)
    assert journal.replayed == int(expected.queries.sum())
    mine = IMAGES.clone()
    LabelOracle(rude, clamp=False)(mine)
    assert torch.equal(mine, IMAGES)


@pytest.mark.parametrize("kind", ["log_probabilities", "labels"])
def test_a_victim_that_reuses_its_output_buffer_overwrites_nothing(kind):
    answers = NET(IMAGES).log_softmax(1) if kind == "log_probabilities" else LABELS
    buffer = torch.empty_like(answers[:3])

    def victim(images):
        values = NET(images).log_softmax(1) if kind == "log_probabilities" else NET(images).argmax(1)
        buffer[: len(images)] = values
        return buffer[: len(images)]

    oracle = ScoreOracle(victim, output=kind, max_batch=3) if kind != "labels" else LabelOracle(victim, max_batch=3)
    assert torch.equal(oracle(IMAGES).double(), answers.float().double())


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("oracle", [ScoreOracle, LabelOracle])
def test_an_overflow_stops_with_the_victims_name(oracle, value):
    def victim(images):
        scores = NET(images)
        scores[1, 2] = value
        return scores

    with pytest.raises(VictimError, match=r"victim victim returned (NaN|infinite) scores for 1 of 6 images"):
        oracle(victim)(IMAGES)


def test_classes_ruled_out_by_minus_infinity_stay_finite():
    def victim(images):
        probabilities = NET(images).softmax(1)
        probabilities = torch.where(probabilities < 0.2, 0.0, probabilities)
        return (probabilities / probabilities.sum(1, keepdim=True)).log()

    answers = ScoreOracle(victim, output="log_probabilities")(IMAGES)
    assert answers.isfinite().all() and float(answers.min()) == pytest.approx(math.log(1e-30))
    assert ZONGD(cells=None)(ScoreOracle(victim), IMAGES, victim(IMAGES).argmax(1), budget=300, seed=0).success.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_victims_of_another_precision_are_asked_in_it_and_read_in_float32(dtype):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5), torch.nn.Softmax(1)).to(dtype)
    oracle = ScoreOracle(net, output="probabilities")
    assert oracle.dtype == dtype
    answers = oracle(IMAGES)
    assert answers.dtype == torch.float32
    assert torch.allclose(answers, net(IMAGES.to(dtype)).float().log(), atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "victim <lambda> returned a NoneType"),
        ({"logits": torch.zeros(6, 5)}, "victim <lambda> returned a dict"),
        ((torch.zeros(6, 5), torch.zeros(6)), "victim <lambda> returned a tuple"),
        (np.array(["cat"] * 6), "victim <lambda> returned a ndarray"),
        (torch.zeros(6, 5, dtype=torch.complex64), "returned complex numbers"),
    ],
)
@pytest.mark.parametrize("oracle", [ScoreOracle, LabelOracle])
def test_answers_that_are_no_scores_are_named(oracle, answer, message):
    with pytest.raises(VictimError, match=message):
        oracle(lambda images: answer)(IMAGES)


def test_what_cannot_be_read_may_be_passed_on_beside_the_others():
    """NaN and +inf make rows of NaN, one -inf a class that is ruled out; what is left must be what was declared."""
    scores = NET(IMAGES).clone()
    scores[0, 2], scores[1, 0], scores[2, 1] = math.nan, math.inf, -math.inf
    oracle = ScoreOracle(lambda images: scores, unreadable="nan")
    answers = oracle(IMAGES)
    assert answers.isnan().all(1).tolist() == [True, True] + [False] * 4 and oracle.queries == 6
    assert torch.allclose(answers[3:], NET(IMAGES[3:]).float().log_softmax(1))
    rest = NET(IMAGES[2:3]).masked_fill(torch.arange(5) == 1, -math.inf).argmax(1)
    assert classes_of(answers).tolist() == [-1, -1, int(rest), *LABELS[3:].tolist()]
    with pytest.raises(VictimError, match="returned NaN scores for 2 of 6 images"):
        ScoreOracle(lambda images: scores)(IMAGES)
    with pytest.raises(VictimError, match="declare output='probabilities'"):
        ScoreOracle(lambda images: scores.softmax(1), unreadable="nan")(IMAGES)
    with pytest.raises(VictimError, match="returned scores of shape"):
        ScoreOracle(lambda images: scores[:2], unreadable="nan")(IMAGES)
    with pytest.raises(ValueError, match="unreadable must be 'raise' or 'nan', got 'skip'"):
        ScoreOracle(NET, unreadable="skip")


def test_an_abstention_needs_a_class_of_its_own():
    with pytest.raises(VictimError, match="returned label -1: labels must be class numbers >= 0; give an abstention"):
        LabelOracle(lambda images: torch.tensor([0, 1, -1, 3, 4, 0]))(IMAGES)


def test_images_that_carry_a_gradient_leave_none_in_the_result():
    result = Scatter()(GradientOracle(NET), IMAGES.clone().requires_grad_(), LABELS, budget=20, seed=0)
    assert not result.adversarial.requires_grad and not result.images.requires_grad


def test_a_cap_refuses_before_anything_is_asked():
    victim = Logging(NET)
    with pytest.raises(RuntimeError, match="0 images were answered, 6 more were asked"):
        ScoreOracle(victim, max_batch=2, max_queries=5)(IMAGES)
    assert victim.seen == 0


def test_large_images_make_smaller_batches():
    oracle = ScoreOracle(NET, max_batch=4096)
    assert oracle.batch_size(torch.empty(1, 3, 32, 32)) == 4096
    assert oracle.batch_size(torch.empty(1, 3, 224, 224)) == 2**26 // 150_528
    assert oracle.batch_size(torch.empty(1, 3, 20_000, 20_000, device="meta")) == 1
