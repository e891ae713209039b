"""The composition of denoiser, autoencoder and box, with parts of known numbers.

Shapes: B images of 1 x 3 x 3 pixels, K classes.
"""

import copy

import pytest
import torch
from torch import nn

from tests.victims import Logging, random_linear
from zeroth.attacks import NESPGD
from zeroth.defenses import DenoisedModel
from zeroth.estimators import CGE, black_box
from zeroth.oracles import ImageOracle, LabelOracle, QueryCapError, ScoreOracle, VictimError
from zeroth.smoothing import SmoothedClassifier

B, K = 6, 4
IMAGES = torch.rand(B, 1, 3, 3, generator=torch.Generator().manual_seed(0))


class Autoencoder(nn.Module):
    def __init__(self, features=5, halves=(5, 5), side=3, **told):
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(9, halves[0]), nn.BatchNorm1d(halves[0]), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(halves[1], side * side), nn.Sigmoid(), nn.Unflatten(1, (1, side, side)))
        self.features = features
        for name, value in told.items():
            setattr(self, name, value)


def denoiser(seed=2):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, padding=1))


class Box(nn.Module):
    """A classifier with parameters, and what it tells of itself."""

    num_classes, image_shape = K, (1, 3, 3)

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(9, K), nn.Dropout(0.5))

    def forward(self, images):
        return self.layers(images)


def build(autoencoder=True, box=None):
    box = Box().eval() if box is None else box
    return DenoisedModel(denoiser(), box, Autoencoder(image_shape=(1, 3, 3)) if autoencoder else None).eval()


@pytest.mark.parametrize("autoencoder", [False, True])
def test_it_answers_what_the_box_says_of_the_denoised_image(autoencoder):
    model = build(autoencoder)
    denoised = model.denoiser(IMAGES)
    z = model.encode(IMAGES)
    if autoencoder:
        assert z.shape == (B, 5) and torch.equal(z, model.autoencoder.encoder(denoised))
        asked = model.autoencoder.decoder(z)
    else:
        assert z.shape == (B, 9) and torch.equal(z, denoised.flatten(1))
        asked = denoised
    assert float((asked - IMAGES).detach().abs().max()) > 0.1
    assert torch.equal(model.decode(z), asked)
    assert torch.equal(model(IMAGES), model.box(asked))


def test_the_box_is_no_part_of_it():
    box, parts = Box().eval(), [denoiser(), Autoencoder()]
    before = copy.deepcopy(box.state_dict())
    model = DenoisedModel(parts[0], box, parts[1])
    held = {id(p) for p in model.parameters()}
    assert held == {id(p) for part in parts for p in part.parameters()}
    assert {name.partition(".")[0] for name in model.state_dict()} == {"denoiser", "autoencoder"}
    assert not any(module is box for module in model.modules())
    model.train().double()
    model.requires_grad_(False)
    assert not box.training and model.denoiser.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in box.parameters())
    assert all(torch.equal(box.state_dict()[name], value) for name, value in before.items())
    assert model.box is box


def test_it_tells_what_an_evaluation_looks_for():
    model = build()
    assert model.num_classes == K and model.image_shape == (1, 3, 3)
    told_by_the_model_of_an_oracle = build(autoencoder=False, box=ScoreOracle(Box().eval()))
    assert told_by_the_model_of_an_oracle.num_classes == K
    assert told_by_the_model_of_an_oracle.image_shape == (1, 3, 3)
    silent = DenoisedModel(denoiser(), lambda images: images)
    assert silent.num_classes is None and silent.image_shape is None


def test_it_is_attacked_and_certified_as_any_model_and_each_image_asks_the_box_once():
    model, victim = build(), Logging(random_linear(K, 9))
    defended = DenoisedModel(model.denoiser, ScoreOracle(victim), model.autoencoder).eval()
    box = defended.box
    labels = defended(IMAGES).argmax(1)
    assert box.queries == victim.seen == B
    result = NESPGD(epsilon=0.3)(ScoreOracle(defended, output="log_probabilities"), IMAGES, labels, budget=60, seed=0)
    spent = int(result.queries.sum())
    assert B < spent <= 60 * B and box.queries == victim.seen == B + spent
    certificate = SmoothedClassifier(defended, K, 0.25, output="log_probabilities").certify(IMAGES, n0=8, n=50, seed=0)
    assert box.queries == B + spent + 58 * B and int(certificate.samples.sum()) == 58 * B
    # The noise goes in front of the denoiser, unclamped; what the box is asked is decoded, so in (0, 1).
    assert float(victim.asked.min()) > 0 and float(victim.asked.max()) < 1


def test_a_box_of_images_gives_images():
    model = build(box=ImageOracle(lambda images: images[:, :, :2] * 2))
    assert torch.allclose(model(IMAGES), 2 * model.decode(model.encode(IMAGES))[:, :, :2])


def test_its_two_ends_are_what_the_bridge_trains():
    model = build()
    oracle = ScoreOracle(model.box)

    def f(points, part):
        return -oracle(model.decode(points.flatten(0, 1)))[:, 1].unflatten(0, points.shape[:2])

    black_box(f, model.encode(IMAGES), CGE(mu=0.005)).mean().backward()
    assert oracle.queries == B * (5 + 1)
    trained = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None
    }
    assert trained == {"denoiser.0", "denoiser.1", "denoiser.2", "autoencoder.encoder"}
    assert all(p.grad is None for p in model.box.parameters())


def test_building_leaves_the_parts_as_they_were():
    autoencoder = Autoencoder(image_shape=(1, 3, 3))
    autoencoder.decoder.eval()
    before = copy.deepcopy(autoencoder.state_dict())
    DenoisedModel(denoiser(), Box().eval(), autoencoder)
    assert all(torch.equal(autoencoder.state_dict()[name], value) for name, value in before.items())
    assert autoencoder.training and autoencoder.encoder[2].training and not autoencoder.decoder.training


def test_without_a_told_shape_the_first_images_tell_it():
    model = DenoisedModel(denoiser(), lambda images: images).eval()
    with pytest.raises(
        ValueError, match="decode needs the shape of images, which neither Sequential nor <lambda> tell"
    ):
        model.decode(torch.zeros(2, 9))
    z = model.encode(IMAGES)
    assert model.image_shape == (1, 3, 3) and torch.equal(model.decode(z), model.denoiser(IMAGES))
    with pytest.raises(ValueError, match=r"\(B, 1, 3, 3\), that of the first ones, got \(2, 1, 4, 4\)"):
        model(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"z must hold the 9 pixels of an image \(1, 3, 3\), got 8 numbers a row"):
        model.decode(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"z must have shape \(B, d\), got \(2, 1, 3, 3\)"):
        model.decode(IMAGES[:2])
    # An autoencoder's decoder needs no shape to go by.
    assert DenoisedModel(denoiser(), lambda images: images, Autoencoder()).decode(torch.zeros(2, 5)).shape[1:] == (
        1,
        3,
        3,
    )


@pytest.mark.parametrize("told", [{}, {"image_shape": (1, 3, 3)}], ids=["first call", "built"])
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"features": 5, "halves": (5, 7)},
            r"decoder of Autoencoder failed on the shape \(\d, 5\) that the encoder's z",
        ),
        (
            {"features": 7, "halves": (5, 7)},
            r"encoder of Autoencoder must return z of shape \(\d, 7\), returned \(\d, 5\)",
        ),
        ({"side": 4}, r"makes images \(1, 4, 4\) of z \(\d, 5\), the encoder takes images \(1, 3, 3\)"),
    ],
)
def test_halves_that_do_not_fit_are_named(parts, message, told):
    def use():
        DenoisedModel(denoiser(), lambda images: images, Autoencoder(**parts, **told)).eval()(IMAGES)

    with pytest.raises(ValueError, match=message):
        use()
    if told:  # and before anything is asked
        with pytest.raises(ValueError, match=message):
            DenoisedModel(denoiser(), lambda images: images, Autoencoder(**parts, **told))


def test_an_autoencoder_of_another_image_size_is_named():
    with pytest.raises(ValueError, match=r"Autoencoder is for images \(1, 4, 4\), Box for images \(1, 3, 3\): choose"):
        DenoisedModel(denoiser(), Box().eval(), Autoencoder(image_shape=[1, 4, 4]))
    with pytest.raises(
        ValueError, match=r"images must have shape \(B, 1, 3, 3\), that of Autoencoder, got \(6, 1, 4, 4\)"
    ):
        DenoisedModel(denoiser(), lambda images: images, Autoencoder(image_shape=(1, 3, 3)))(torch.zeros(6, 1, 4, 4))
    model = DenoisedModel(denoiser(), lambda images: images, Autoencoder()).eval()
    with pytest.raises(
        ValueError, match=r"encoder of Autoencoder failed on the shape \(6, 1, 4, 4\) that the denoised"
    ):
        model(torch.zeros(6, 1, 4, 4))


def test_other_parts_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"denoiser Sequential failed on the shape \(2, 3, 3, 3\) that the images have"
    ):
        DenoisedModel(denoiser(), lambda images: images)(torch.zeros(2, 3, 3, 3))
    with pytest.raises(
        ValueError, match=r"denoiser Conv2d must keep the shape of images \(6, 1, 3, 3\), .* \(6, 1, 2, 2\)"
    ):
        DenoisedModel(nn.Conv2d(1, 1, 2), lambda images: images)(IMAGES)
    with pytest.raises(
        ValueError, match=r"box Sequential failed on the shape \(6, 1, 3, 3\) that the decoded images have"
    ):
        DenoisedModel(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))(IMAGES)
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), .* got \(1, 3, 3\)"):
        DenoisedModel(nn.Identity(), lambda images: images)(IMAGES[0])


def test_what_the_box_says_itself_is_left_as_it_is():
    with pytest.raises(QueryCapError, match="max_queries=3"):
        build(box=LabelOracle(Box().eval(), max_queries=3))(IMAGES)
    with pytest.raises(VictimError, match="returned NaN scores"):
        build(box=ScoreOracle(lambda images: torch.full((len(images), K), torch.nan)))(IMAGES)


def test_bad_parts_are_named():
    with pytest.raises(ValueError, match="box must be callable on images, got NoneType"):
        DenoisedModel(denoiser(), None)
    with pytest.raises(ValueError, match=r"model Box has dropout .* call model.eval\(\) first"):
        DenoisedModel(denoiser(), Box())
    with pytest.raises(ValueError, match="autoencoder must have an encoder and a decoder, Sequential has no encoder"):
        DenoisedModel(denoiser(), Box().eval(), denoiser())
