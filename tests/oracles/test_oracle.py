import math

import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.oracles import GradientOracle, LabelOracle, QueryCapError, ScoreOracle, VictimError

IMAGES = torch.rand(10, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def test_each_kind_of_score_gives_the_same_log_probabilities():
    net = random_linear(4, 9)
    logits = ScoreOracle(net)(IMAGES)
    assert torch.allclose(logits, net(IMAGES).log_softmax(1).float())
    assert torch.allclose(ScoreOracle(lambda x: net(x).softmax(1), output="probabilities")(IMAGES), logits, atol=1e-6)
    assert torch.allclose(
        ScoreOracle(lambda x: net(x).log_softmax(1), output="log_probabilities")(IMAGES), logits, atol=1e-6
    )


def test_a_sure_victim_keeps_its_last_digits():
    """log p = -log(1 + 2 exp(-25)) is -2.8e-11, which float32 arithmetic on logits would round to 0."""
    logits = torch.tensor([[25.0, 0.0, 0.0]])
    answer = ScoreOracle(lambda x: logits)(IMAGES[:1])[0, 0]
    assert float(answer) == pytest.approx(-math.log1p(2 * math.exp(-25)), rel=1e-5)
    assert answer.dtype == torch.float32


def test_zero_probability_stays_finite():
    certain = torch.tensor([[1.0, 0.0]])
    assert ScoreOracle(lambda x: certain, output="probabilities")(IMAGES[:1])[0, 1] == pytest.approx(-69.0776, abs=1e-3)


def test_labels_are_the_arg_max_or_what_the_model_returns():
    net = random_linear(4, 9)
    expected = net(IMAGES).argmax(1)
    assert torch.equal(LabelOracle(net)(IMAGES), expected)
    assert torch.equal(LabelOracle(lambda x: net(x).argmax(1).int())(IMAGES), expected)


def test_numpy_answers_are_taken():
    net = random_linear(4, 9)
    assert torch.equal(LabelOracle(lambda x: net(x).numpy())(IMAGES), net(IMAGES).argmax(1))


def test_asks_clamped_chunks_and_counts_each_image_once():
    victim = Logging(random_linear(4, 9))
    oracle = ScoreOracle(victim, max_batch=4)
    oracle(IMAGES * 4 - 2)
    assert [len(b) for b in victim.batches] == [4, 4, 2]
    assert oracle.queries == victim.seen == 10
    assert torch.equal(victim.asked, (IMAGES * 4 - 2).clamp(0, 1))
    unclamped = Logging(random_linear(4, 9))
    LabelOracle(unclamped, clamp=False)(IMAGES * 4 - 2)
    assert torch.equal(unclamped.asked, IMAGES * 4 - 2)


def test_cap_holds_exactly():
    victim = Logging(random_linear(4, 9))
    oracle = ScoreOracle(victim, max_queries=15)
    oracle(IMAGES)
    assert oracle.remaining == 5
    with pytest.raises(QueryCapError, match=r"max_queries=15.*10 images were answered, 10 more"):
        oracle(IMAGES)
    assert victim.seen == 10


def test_gradient_is_the_models_own_and_costs_one_query():
    net = random_linear(3, 9)
    oracle = GradientOracle(net, max_batch=3)
    answers, gradients = oracle.differentiate(IMAGES, lambda log_p, part: log_p[:, 0] - log_p[:, 1])
    assert torch.allclose(gradients.flatten(1), (net.weight[0] - net.weight[1]).float().expand(10, 9), atol=1e-6)
    assert torch.allclose(answers, net(IMAGES).log_softmax(1).float())
    assert oracle.queries == 10
    with pytest.raises(VictimError, match="without a gradient"):
        GradientOracle(lambda x: net(x.detach())).differentiate(IMAGES, lambda log_p, part: log_p[:, 0])


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (lambda x: torch.full((len(x), 3), torch.nan), "logits", "returned NaN scores for 10 of 10 images"),
        (
            lambda x: torch.zeros(len(x)),
            "logits",
            r"returned scores of shape \(10,\), expected \(10, number of classes >= 2\)",
        ),
        (lambda x: torch.zeros(len(x) - 1, 3), "logits", r"shape \(9, 3\)"),
        (lambda x: torch.randn(len(x), 3).softmax(1), "logits", "declare output='probabilities'"),
        (lambda x: torch.randn(len(x), 3) * 5, "probabilities", "instead of 1: declare output='logits'"),
        (lambda x: torch.randn(len(x), 3).softmax(1) / 2, "probabilities", "sum to 0.5..0.5 instead of 1"),
        (lambda x: torch.randn(len(x), 3).softmax(1), "log_probabilities", "declared to return log-probabilities"),
    ],
)
def test_unreadable_answers_stop_with_the_fault_and_the_model_named(model, output, message):
    with pytest.raises(VictimError, match=message) as error:
        ScoreOracle(model, output=output)(IMAGES)
    assert "victim <lambda>" in str(error.value)


def test_a_model_that_does_not_take_the_images_is_named():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    for oracle in (ScoreOracle(net), LabelOracle(net)):
        with pytest.raises(VictimError, match=r"victim Sequential failed on 10 images of shape \(1, 3, 3\): .*shapes"):
            oracle(IMAGES)


def test_a_change_of_classes_between_answers_is_an_error():
    sizes = iter([3, 4])
    oracle = ScoreOracle(lambda x: torch.randn(len(x), next(sizes)), max_batch=5)
    with pytest.raises(VictimError, match=r"shape \(5, 4\), expected \(5, 3\)"):
        oracle(IMAGES)


def test_a_module_in_training_mode_is_refused():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(9, 2))
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        ScoreOracle(net)
    ScoreOracle(net.eval())(IMAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "scores"}, "output must be one of logits, probabilities, log_probabilities, got 'scores'"),
        ({"max_batch": 0}, "max_batch must be at least 1 or None, got 0"),
        ({"max_queries": -3}, "max_queries must be at least 1 or None, got -3"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreOracle(random_linear(2, 9), **options)
    with pytest.raises(ValueError, match=r"images must have shape \(N >= 1, C, H, W\), got \(3, 3\)"):
        ScoreOracle(random_linear(2, 9))(torch.zeros(3, 3))


@pytest.mark.parametrize("style", ["torch.set_float32_matmul_precision", "fp32_precision"])
def test_autocast_and_tf32_are_off_inside_and_restored_after(style):
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    seen, before = [], (matmul.fp32_precision, conv.fp32_precision)

    def model(x):
        seen.append((torch.is_autocast_enabled("cpu"), matmul.fp32_precision, conv.fp32_precision))
        return torch.zeros(len(x), 2)

    try:
        if style == "fp32_precision":
            matmul.fp32_precision = conv.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision("high")
        expected = matmul.fp32_precision, conv.fp32_precision
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ScoreOracle(model)(IMAGES)
            assert torch.is_autocast_enabled("cpu")
        assert (matmul.fp32_precision, conv.fp32_precision) == expected
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
    assert seen == [(False, "ieee", "ieee")]
