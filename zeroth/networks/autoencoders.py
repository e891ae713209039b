"""Autoencoders of ZO-AE-DS (Zhang et al., ICLR 2022): few numbers an image, which a black box is queried around.

Shapes: B images, C x H x W pixels, c x h x w maps of the code, d_z = c h w numbers of it.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Layer = tuple[int, int, int, int]  # channels, kernel, stride, padding of a convolution


class ConvAutoencoder(nn.Module):
    """Convolutions down to a code z, and their mirror of transposed convolutions back to the image.

    ReLU follows every layer but the last, so z >= 0; a sigmoid follows the last. There is no BatchNorm: an image's code
    does not depend on its neighbours. Calling the module decodes what it encodes.

    Args:
        image_shape: (C, H, W) of the images.
        layers: (channels, kernel, stride, padding) of each convolution of the encoder. Height and width + 2 padding -
            kernel must be multiples of the stride, so that the mirror gives the size back and no pixel is left out.

    Attributes:
        encoder: images (B, C, H, W) in [0, 1] -> z (B, d_z), >= 0.
        decoder: z (B, d_z) -> images (B, C, H, W) in (0, 1).
        latent_shape: (c, h, w), what z is a flat view of.
        features: d_z.

    Raises:
        ValueError: there is no layer, or one does not fit the maps that it meets; the message names both. When called,
            images are not of image_shape, or z is not of d_z numbers.
    """

    answers = "images"  # no victim of attacks

    def __init__(self, *, image_shape: tuple[int, int, int], layers: Sequence[Layer]) -> None:
        super().__init__()
        depth, height, width = image_shape
        self.image_shape = (depth, height, width)
        self.layers = [(channels, kernel, stride, padding) for channels, kernel, stride, padding in layers]
        if not self.layers:
            raise ValueError("layers must hold at least one (channels, kernel, stride, padding), got none")
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for place, (channels, kernel, stride, padding) in enumerate(self.layers):
            _check_layer(place, self.layers[place], height, width)
            down += [nn.Conv2d(depth, channels, kernel, stride, padding), nn.ReLU(inplace=True)]
            back = nn.ConvTranspose2d(channels, depth, kernel, stride, padding)
            up = [back, nn.ReLU(inplace=True) if place else nn.Sigmoid(), *up]
            height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
            depth = channels
        self.latent_shape = (depth, height, width)
        self.features = depth * height * width
        self.encoder = _Encoder(self.image_shape, *down)
        self.decoder = _Decoder(self.latent_shape, *up)
        _start(self.encoder, self.decoder)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


class CIFAR10Autoencoder(ConvAutoencoder):
    """AE-192 or AE-96 of the paper, 3x32x32 pixels.

    Args:
        features: d_z, 192 or 96 (table A2).
    """

    def __init__(self, *, features: int = 192) -> None:
        super().__init__(
            image_shape=(3, 32, 32),
            layers=_chosen(
                features,
                {
                    192: [(24, 4, 4, 0), (48, 3, 3, 2), (96, 4, 2, 1), (192, 2, 2, 0)],
                    96: [(12, 4, 4, 0), (24, 3, 3, 2), (48, 4, 2, 1), (96, 2, 2, 0)],
                },
            ),
        )


class STL10Autoencoder(ConvAutoencoder):
    """AE-576 of the paper, 3x96x96 pixels."""

    def __init__(self) -> None:
        super().__init__(
            image_shape=(3, 96, 96),
            layers=[(18, 5, 3, 1), (72, 4, 4, 0), (144, 3, 3, 2), (288, 4, 2, 1), (576, 2, 2, 0)],
        )


class MNISTAutoencoder(ConvAutoencoder):
    """AE-192 of the paper, whose code is 12x4x4, or a smaller one of ours that ends at 1x1; 1x28x28 pixels.

    Args:
        features: d_z, 192 (the paper's) or 32.
    """

    def __init__(self, *, features: int = 192) -> None:
        super().__init__(
            image_shape=(1, 28, 28),
            layers=_chosen(
                features,
                {
                    192: [(3, 4, 2, 1), (12, 5, 3, 0)],
                    32: [(16, 4, 2, 1), (32, 4, 2, 1), (32, 7, 1, 0)],
                },
            ),
        )


class RestrictedImageNetAutoencoder(ConvAutoencoder):
    """AE-1152 of the paper (appendix C.3), 3x224x224 pixels."""

    def __init__(self) -> None:
        super().__init__(
            image_shape=(3, 224, 224),
            layers=[(24, 8, 6, 0), (48, 3, 2, 0), (96, 3, 3, 0), (192, 2, 2, 1), (384, 2, 2, 1), (1152, 3, 3, 0)],
        )


class DigitsAutoencoder(ConvAutoencoder):
    """One of ours for scikit-learn's 1x8x8 digits, d_z = 16."""

    def __init__(self) -> None:
        super().__init__(image_shape=(1, 8, 8), layers=[(16, 4, 2, 1), (32, 4, 2, 1), (16, 2, 1, 0)])


class _Encoder(nn.Sequential):
    """Refuses images of another size: some would give as many numbers, and a code that the decoder was never taught."""

    def __init__(self, image_shape: tuple[int, int, int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"this autoencoder takes images of shape {self.image_shape}, got {tuple(images.shape[1:])}: "
                "give it such images, or train one for yours"
            )
        return super().forward(images).flatten(1)  # (B, c, h, w) -> (B, d_z)


class _Decoder(nn.Sequential):
    """Takes z flat, as the estimators of gradients do."""

    def __init__(self, latent_shape: tuple[int, int, int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.latent_shape = latent_shape

    def forward(self, z: Tensor) -> Tensor:
        channels, height, width = self.latent_shape
        if z.shape[1:] != (channels * height * width,):
            raise ValueError(
                f"this decoder takes z of shape (B, {channels * height * width}), got {tuple(z.shape)}: "
                "give it what the encoder of the same autoencoder gives"
            )
        return super().forward(z.unflatten(1, self.latent_shape))  # (B, d_z) -> (B, c, h, w)


def _start(encoder: nn.Sequential, decoder: nn.Sequential) -> None:
    """Draw the encoder's weights by He et al. (2015), shift z by 1, and take the random shifts out elsewhere.

    By torch's own start a third of the digits' 16 units of z answered 0 to every image and learned nothing, a direction
    of z that is asked in vain in every step of a defence: after 20 epochs the error was .022, by this start .012-.016
    with all units at work; for MNIST with d_z = 32, .064 and .039-.047 after 4 epochs of 3,600 images.
    """
    convolutions = [module for module in encoder if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for module in (*encoder, *decoder):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.constant_(module.bias, 1.0 if module is convolutions[-1] else 0.0)


def _check_layer(place: int, layer: Layer, height: int, width: int) -> None:
    """Raise ValueError unless a convolution and its mirror lead from height x width back to the same size."""
    channels, kernel, stride, padding = layer
    named = f"layers[{place}] (channels {channels}, kernel {kernel}, stride {stride}, padding {padding})"
    if min(channels, kernel, stride) < 1 or padding < 0:
        raise ValueError(f"{named} must have channels, kernel and stride of at least 1 and padding of at least 0")
    rest = [size + 2 * padding - kernel for size in (height, width)]
    if min(rest) < 0 or any(length % stride for length in rest):
        raise ValueError(
            f"{named} does not fit the {height}x{width} maps that it meets: size + 2 padding - kernel is "
            f"{rest[0]} and {rest[1]}, it must be a multiple of the stride (or 0); change the layer, or image_shape"
        )


def _chosen(features: int, layers: Mapping[int, list[Layer]]) -> list[Layer]:
    if features not in layers:
        raise ValueError(
            f"features must be {' or '.join(map(str, layers))}, got {features}: for other sizes of z give "
            "ConvAutoencoder layers of your own"
        )
    return layers[features]
