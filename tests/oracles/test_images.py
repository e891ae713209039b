"""Boxes that answer images, with a reconstructor of known numbers."""

import pytest
import torch
from torch import nn

from tests.victims import Logging
from zeroth.oracles import (
    GradientOracle,
    ImageGradientOracle,
    ImageOracle,
    Journal,
    QueryCapError,
    ScoreOracle,
    VictimError,
    WhiteBoxOracle,
)

IMAGES = torch.rand(10, 1, 2, 3, generator=torch.Generator().manual_seed(0))
MATRIX = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class Affine(nn.Module):
    """Images (N, 1, 2, 3) -> (N, 2, 2, 2), pixels times a matrix."""

    def forward(self, images):
        return (images.flatten(1) @ MATRIX.to(images.dtype)).reshape(-1, 2, 2, 2)


def test_answers_are_the_models_asked_in_clamped_counted_batches():
    victim = Logging(Affine())
    oracle = ImageOracle(victim, max_batch=4)
    assert oracle.answer_shape is None
    answers = oracle(IMAGES * 4 - 2)
    asked = (IMAGES * 4 - 2).clamp(0, 1)
    assert torch.allclose(answers.flatten(1), asked.flatten(1) @ MATRIX, atol=1e-6)
    assert answers.dtype == torch.float32 and oracle.answer_shape == (2, 2, 2)
    assert [len(batch) for batch in victim.batches] == [4, 4, 2] and torch.equal(victim.asked, asked)
    assert oracle.queries == victim.seen == 10
    unclamped = ImageOracle(Affine(), clamp=False)(IMAGES * 4 - 2)
    assert torch.allclose(unclamped.flatten(1), (IMAGES * 4 - 2).flatten(1) @ MATRIX, atol=1e-5)


def test_a_cap_holds_and_refuses_before_anything_is_asked():
    victim = Logging(Affine())
    with pytest.raises(QueryCapError, match="0 images were answered, 10 more were asked"):
        ImageOracle(victim, max_batch=2, max_queries=9)(IMAGES)
    assert victim.seen == 0


def test_gradients_are_the_models_own_and_cost_one_query():
    """The gradient of |x A|^2 is 2 A A' x; chunks hand the objective their own slice."""
    oracle, scale = ImageGradientOracle(Affine(), max_batch=3), torch.linspace(1, 2, 10)
    answers, gradients = oracle.differentiate(IMAGES, lambda got, part: scale[part] * got.square().sum((1, 2, 3)))
    expected = 2 * scale.unsqueeze(1) * (IMAGES.flatten(1) @ MATRIX @ MATRIX.T)
    assert torch.allclose(gradients.flatten(1), expected, atol=1e-4)
    assert torch.allclose(answers, Affine()(IMAGES), atol=1e-6) and not answers.requires_grad
    assert oracle.queries == 10
    with pytest.raises(
        VictimError, match="answered without a gradient: ImageGradientOracle needs a differentiable model"
    ):
        ImageGradientOracle(lambda x: Affine()(x.detach())).differentiate(IMAGES, lambda got, part: got[:, 0, 0, 0])


def test_only_white_boxes_give_gradients():
    assert not hasattr(ImageOracle, "differentiate") and not hasattr(ScoreOracle, "differentiate")
    assert issubclass(GradientOracle, WhiteBoxOracle) and issubclass(GradientOracle, ScoreOracle)
    assert issubclass(ImageGradientOracle, WhiteBoxOracle) and not issubclass(ImageGradientOracle, ScoreOracle)


def test_a_model_that_reuses_its_output_buffer_overwrites_nothing():
    buffer = torch.empty(5, 2, 2, 2)

    def rude(images):
        images *= 2  # and changes what it was given
        return buffer.copy_(Affine()(images))

    mine = IMAGES.clone()
    assert torch.allclose(ImageOracle(rude, max_batch=5)(mine), Affine()(2 * IMAGES), atol=1e-5)
    assert torch.equal(mine, IMAGES)


def test_half_precision_models_are_asked_in_it_and_read_in_float32():
    net = nn.Conv2d(1, 2, 2).to(torch.bfloat16)
    answers = ImageOracle(net)(IMAGES)
    assert answers.dtype == torch.float32 and torch.equal(answers, net(IMAGES.bfloat16()).float())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.flatten(1), r"images of shape \(10, 6\), expected \(10, C, H, W\)"),
        (lambda x: x[1:], r"images of shape \(9, 1, 2, 3\), expected \(10, C, H, W\)"),
        (lambda x: x / (x > 0.5), "NaN or infinite pixels for 10 of 10 images"),
        (lambda x: torch.where(torch.arange(10).reshape(-1, 1, 1, 1) == 3, torch.nan, x), "pixels for 1 of 10"),
        (lambda x: None, "returned a NoneType"),
    ],
)
def test_unreadable_answers_stop_with_the_fault_and_the_model_named(model, message):
    with pytest.raises(VictimError, match=message) as error:
        ImageOracle(model)(IMAGES)
    assert "victim <lambda>" in str(error.value)


def test_a_change_of_shape_between_answers_is_an_error():
    sizes = iter([2, 1])
    with pytest.raises(VictimError, match=r"shape \(5, 1, 1, 3\), expected \(5, 1, 2, 3\)"):
        ImageOracle(lambda x: x[:, :, : next(sizes)], max_batch=5)(IMAGES)


def test_a_module_in_training_mode_and_a_journal_are_refused(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        ImageOracle(net)
    journal = Journal.open(tmp_path / "j", {})
    oracle = ImageOracle(net.eval())
    with pytest.raises(ValueError, match=r"journal must be None for an ImageOracle, got one at .*j: a journal keeps"):
        oracle.ask(IMAGES, journal)
    journal.close()
    assert oracle.queries == 0
