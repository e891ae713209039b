"""Autoencoders: sizes by hand, the mirror, one layer in closed form, layers and images that do not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_modules.hyperparameters import describe
from tests.networks.counting import parameters
from zeroth.networks import (
    CIFAR10Autoencoder,
    ConvAutoencoder,
    DigitsAutoencoder,
    MNISTAutoencoder,
    RestrictedImageNetAutoencoder,
    STL10Autoencoder,
)

# Weights of the convolutions, once down and once up, by (channels out x channels in x kernel squared); their biases,
# down those of the maps that they make, up those of the maps that the mirror makes.
CASES = {
    "CIFAR-10, 192": (
        CIFAR10Autoencoder(),
        [(3, 32, 32), (24, 8, 8), (48, 4, 4), (96, 2, 2), (192, 1, 1)],
        2 * (24 * 3 * 16 + 48 * 24 * 9 + 96 * 48 * 16 + 192 * 96 * 4) + (24 + 48 + 96 + 192) + (96 + 48 + 24 + 3),
        318_483,
    ),
    "CIFAR-10, 96": (
        CIFAR10Autoencoder(features=96),
        [(3, 32, 32), (12, 8, 8), (24, 4, 4), (48, 2, 2), (96, 1, 1)],
        2 * (12 * 3 * 16 + 24 * 12 * 9 + 48 * 24 * 16 + 96 * 48 * 4) + (12 + 24 + 48 + 96) + (48 + 24 + 12 + 3),
        80_331,
    ),
    "STL-10, 576": (
        STL10Autoencoder(),
        [(3, 96, 96), (18, 32, 32), (72, 8, 8), (144, 4, 4), (288, 2, 2), (576, 1, 1)],
        2 * (18 * 3 * 25 + 72 * 18 * 16 + 144 * 72 * 9 + 288 * 144 * 16 + 576 * 288 * 4)
        + (18 + 72 + 144 + 288 + 576)
        + (288 + 144 + 72 + 18 + 3),
        2_886_627,
    ),
    "MNIST, 192": (
        MNISTAutoencoder(),
        [(1, 28, 28), (3, 14, 14), (12, 4, 4)],
        2 * (3 * 1 * 16 + 12 * 3 * 25) + (3 + 12) + (3 + 1),
        1_915,
    ),
    "MNIST, 32": (
        MNISTAutoencoder(features=32),
        [(1, 28, 28), (16, 14, 14), (32, 7, 7), (32, 1, 1)],
        2 * (16 * 1 * 16 + 32 * 16 * 16 + 32 * 32 * 49) + (16 + 32 + 32) + (32 + 16 + 1),
        117_377,
    ),
    "R-ImageNet, 1152": (
        RestrictedImageNetAutoencoder(),
        [(3, 224, 224), (24, 37, 37), (48, 18, 18), (96, 6, 6), (192, 4, 4), (384, 3, 3), (1152, 1, 1)],
        2 * (24 * 3 * 64 + 48 * 24 * 9 + 96 * 48 * 9 + 192 * 96 * 4 + 384 * 192 * 4 + 1152 * 384 * 9)
        + (24 + 48 + 96 + 192 + 384 + 1152)
        + (384 + 192 + 96 + 48 + 24 + 3),
        8_815_443,
    ),
    "digits, 16": (
        DigitsAutoencoder(),
        [(1, 8, 8), (16, 4, 4), (32, 2, 2), (16, 1, 1)],
        2 * (16 * 1 * 16 + 32 * 16 * 16 + 16 * 32 * 4) + (16 + 32 + 16) + (32 + 16 + 1),
        21_105,
    ),
}


@pytest.mark.parametrize(("network", "maps", "by_hand", "total"), CASES.values(), ids=list(CASES))
def test_sizes(network: ConvAutoencoder, maps: list[tuple[int, ...]], by_hand: int, total: int) -> None:
    assert parameters(network) == by_hand == total
    assert network.image_shape == maps[0] and network.latent_shape == maps[-1]
    assert network.features == maps[-1][0] * maps[-1][1] * maps[-1][2]
    images = torch.rand(2, *network.image_shape)
    with torch.no_grad():
        down, up = [images], [network.encoder(images).unflatten(1, network.latent_shape)]
        for layer in network.encoder:
            down += [layer(down[-1])] if isinstance(layer, nn.Conv2d) else []
        for layer in network.decoder:
            up += [layer(up[-1])] if isinstance(layer, nn.ConvTranspose2d) else []
        assert [tuple(part.shape[1:]) for part in down] == maps
        assert [tuple(part.shape[1:]) for part in up] == maps[::-1]
        z = network.encoder(images)
        made = network.decoder(z)
        assert z.shape == (2, network.features) and z.min() >= 0
        assert made.shape == images.shape and 0 < made.min() <= made.max() < 1
        assert torch.equal(network(images), made)


@pytest.mark.parametrize("name", ["CIFAR-10, 192", "digits, 16", "MNIST, 32"])
def test_a_checkpoint_can_describe_them(name: str) -> None:
    network = CASES[name][0]
    description = describe(network)
    again = type(network)(**description["init_args"])
    again.load_state_dict(network.state_dict())
    assert describe(again) == description and again.layers == network.layers
    whole = ConvAutoencoder(**describe(ConvAutoencoder(image_shape=[1, 8, 8], layers=[[4, 2, 2, 0]]))["init_args"])
    assert (whole.image_shape, whole.layers, whole.features) == ((1, 8, 8), [(4, 2, 2, 0)], 64)


def test_one_layer_in_closed_form() -> None:
    """A mean over 2x2 pixels and its mirror: the ReLU cuts z, the sigmoid alone follows the last layer."""
    network = ConvAutoencoder(image_shape=(1, 2, 4), layers=[(1, 2, 2, 0)])
    down, up = network.encoder[0], network.decoder[0]
    with torch.no_grad():
        down.weight.fill_(0.25)
        down.bias.fill_(-0.5)
        up.weight.copy_(torch.tensor([[[[-1.0, 2.0], [3.0, 0.0]]]]))
        up.bias.fill_(0.1)
    images = torch.tensor([[[[0.2, 0.4, 1.0, 0.8], [0.6, 0.0, 1.0, 0.8]]]])  # means .3 and .9
    torch.testing.assert_close(network.encoder(images), torch.tensor([[0.0, 0.4]]))
    expected = torch.tensor([[[[0.1, 0.1, -0.3, 0.9], [0.1, 0.1, 1.3, 0.1]]]]).sigmoid()
    torch.testing.assert_close(network(images), expected)


def test_a_relu_stands_between_the_layers_of_both_halves() -> None:
    network = ConvAutoencoder(image_shape=(1, 1, 1), layers=[(1, 1, 1, 0), (1, 1, 1, 0)])
    with torch.no_grad():
        for layer in (network.encoder[0], network.decoder[0]):  # the inner maps would be negative
            layer.weight.fill_(-1.0)
            layer.bias.fill_(0.0)
        for layer, bias in ((network.encoder[2], 0.3), (network.decoder[2], 0.2)):
            layer.weight.fill_(5.0)
            layer.bias.fill_(bias)
    images = torch.full((1, 1, 1, 1), 0.9)
    torch.testing.assert_close(network.encoder(images), torch.tensor([[0.3]]))
    torch.testing.assert_close(network(images).flatten(), torch.tensor([0.2]).sigmoid())


def test_z_is_the_maps_in_the_order_of_their_channels() -> None:
    network = MNISTAutoencoder()
    z = torch.arange(192.0)[None]
    assert network.decoder(z).shape == (1, 1, 28, 28)
    with torch.no_grad():
        inner = nn.Sequential(*network.decoder)(z.view(1, 12, 4, 4))
        assert torch.equal(network.decoder(z), inner)
        images = torch.rand(1, 1, 28, 28)
        maps = nn.Sequential(*network.encoder)(images)
        assert maps.shape == (1, 12, 4, 4) and torch.equal(network.encoder(images), maps.reshape(1, 192))


def test_every_unit_of_z_starts_at_work() -> None:
    """By torch's own start some are 0 on every image, and stay so."""
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        torch.manual_seed(seed)
        network = DigitsAutoencoder()
        with torch.no_grad():
            assert (network.encoder(images).amax(0) > 0).sum() >= 15
        # Drawn by sqrt(2 / fan_in); a shift of 1 before z, none elsewhere.
        assert network.encoder[2].weight.std().item() == pytest.approx((2 / (16 * 16)) ** 0.5, rel=0.05)
        shifts = [
            layer.bias.unique().tolist() for layer in (*network.encoder, *network.decoder) if hasattr(layer, "bias")
        ]
        assert shifts == [[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]


@given(size=st.integers(1, 12), kernel=st.integers(1, 5), stride=st.integers(1, 4), padding=st.integers(0, 3))
def test_a_layer_fits_where_its_mirror_gives_the_size_back(size: int, kernel: int, stride: int, padding: int) -> None:
    images = torch.zeros(1, 1, size, size)
    try:
        maps = nn.Conv2d(1, 1, kernel, stride, padding)(images)
        back = nn.ConvTranspose2d(1, 1, kernel, stride, padding)(maps).shape == images.shape
    except RuntimeError:  # the kernel is larger than the padded maps
        back = False
    layers = [(1, kernel, stride, padding)]
    if back:
        assert ConvAutoencoder(image_shape=(1, size, size), layers=layers)(images).shape == images.shape
    else:
        with pytest.raises(ValueError, match=rf"layers\[0\] .* does not fit the {size}x{size} maps that it meets"):
            ConvAutoencoder(image_shape=(1, size, size), layers=layers)


CIFAR10_LAYERS = [(24, 4, 4, 0), (48, 3, 3, 2), (96, 4, 2, 1), (192, 2, 2, 0)]


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        # 28 -> 7, where (7 + 2 * 2 - 3) = 8 is no multiple of 3.
        (
            (1, 28, 28),
            CIFAR10_LAYERS,
            r"layers\[1\] \(channels 48, kernel 3, stride 3, padding 2\) does not fit the 7x7 maps that it meets: "
            r"size \+ 2 padding - kernel is 8 and 8, it must be a multiple of the stride",
        ),
        ((3, 32, 30), CIFAR10_LAYERS, r"layers\[0\] .*does not fit the 32x30 maps.* is 28 and 26"),
        ((1, 8, 8), [(4, 4, 4, 0), (4, 3, 1, 0)], r"layers\[1\] .*does not fit the 2x2 maps.* is -1 and -1"),
        ((1, 8, 8), [(0, 4, 4, 0)], r"layers\[0\] \(channels 0, .*channels, kernel and stride of at least 1"),
        ((1, 8, 8), [(4, 2, 0, 0)], r"layers\[0\] .*stride 0, .*stride of at least 1"),
        ((1, 8, 8), [(4, 4, 2, -1)], r"layers\[0\] .*padding -1\) must have .*padding of at least 0"),
        ((1, 8, 8), [], "layers must hold at least one"),
    ],
)
def test_layers_that_do_not_fit(shape: tuple[int, int, int], layers: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvAutoencoder(image_shape=shape, layers=layers)


@pytest.mark.parametrize(("cls", "known"), [(CIFAR10Autoencoder, "192 or 96"), (MNISTAutoencoder, "192 or 32")])
def test_codes_that_nobody_has_laid_out(cls: type[ConvAutoencoder], known: str) -> None:
    with pytest.raises(ValueError, match=f"features must be {known}, got 64: .*ConvAutoencoder layers of your own"):
        cls(features=64)


def test_images_and_codes_of_another_autoencoder_are_refused() -> None:
    network = MNISTAutoencoder()
    # 29 pixels would give 14 and then 4 as well: as many numbers, another picture.
    for shape in ((2, 1, 29, 29), (2, 3, 28, 28), (2, 1, 8, 8), (1, 28, 28)):
        with pytest.raises(ValueError, match=r"takes images of shape \(1, 28, 28\), got .* train one for yours"):
            network.encoder(torch.rand(shape))
    z = DigitsAutoencoder().encoder(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"this decoder takes z of shape \(B, 192\), got \(2, 16\)"):
        network.decoder(z)
    with pytest.raises(ValueError, match=r"z of shape \(B, 192\), got \(2, 12, 4, 4\)"):
        network.decoder(torch.zeros(2, 12, 4, 4))
