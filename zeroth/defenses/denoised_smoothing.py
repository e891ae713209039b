"""Denoised smoothing: a box behind a denoiser, and behind an autoencoder (ZO-AE-DS, Zhang et al., ICLR 2022).

Shapes: B images of C x H x W pixels, d numbers that an image is encoded by (d_z of the paper).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zeroth.networks._trying import trying
from zeroth.oracles.oracle import check_eval
from zeroth.oracles.scores import name_of

Shape = tuple[int, ...]


class DenoisedModel(nn.Module):
    r"""A box with a denoiser in front of it, as one model again.

    .. math:: R(f)(x) = f(D_\theta(x)) \quad \text{(eq. 1)}, \qquad
        R(f)(x) = f(\phi_{dec}(z)),\ z = \psi_{enc}(D_\theta(x)) \quad \text{(eq. 6)}

    It answers what the box answers: scores, labels or images. Smoothed, it is the classifier whose certificates the
    paper reports. Images may lie outside [0, 1], as noisy ones do, and nothing is clamped between the parts.

    The box stays a box: none of it is among the parameters or in the state_dict, and ``.train()`` leaves it as it is. A
    module goes along to another device, in its own dtype. An oracle as the box takes images from anywhere, counts each
    one, and lets no gradient out.

    Args:
        denoiser: images (B, C, H, W) -> images of the same shape.
        box: images (B, C, H, W) -> answers: a module in eval mode, any other callable, or an oracle.
        autoencoder: has ``encoder``, images -> z (B, d), and ``decoder``, z -> images; None for denoised smoothing
            without one (DS), whose z are the pixels of the denoised image, d = C H W. Attributes ``features`` (d) and
            ``image_shape`` are checked where it has them.

    Attributes:
        image_shape: (C, H, W), where one of the parts tells it, else that of the first images; None before.
        num_classes: the box's, None where it does not tell.

    Raises:
        ValueError: parts that do not fit each other, when built where their shapes are told, else at the first call;
            or a box in training mode.
    """

    def __init__(self, denoiser: nn.Module, box: Callable[[Tensor], Any], autoencoder: nn.Module | None = None) -> None:
        super().__init__()
        if not callable(box):
            raise ValueError(f"box must be callable on images, got {type(box).__name__}")
        check_eval(box)
        for half in () if autoencoder is None else ("encoder", "decoder"):
            if not hasattr(autoencoder, half):
                raise ValueError(
                    f"autoencoder must have an encoder and a decoder, {name_of(autoencoder)} has no {half}"
                )
        self.denoiser, self.autoencoder = denoiser, autoencoder
        self._frozen: list[nn.Module] = []
        # In a tuple: what is no attribute of its own is in no state_dict, and no optimizer finds its parameters.
        self._box = (box,)
        self.image_shape: Shape | None = None
        self._told_by = "the first ones"
        for part in (autoencoder, denoiser, box):
            if (shape := _told(part, "image_shape")) is None:
                continue
            if self.image_shape not in (None, tuple(shape)):
                raise ValueError(
                    f"{self._told_by} is for images {self.image_shape}, {name_of(part)} for images {tuple(shape)}: "
                    "choose parts for images of one shape"
                )
            if self.image_shape is None:
                self.image_shape, self._told_by = tuple(shape), name_of(part)
        if autoencoder is not None and self.image_shape is not None:
            self.try_out(self.image_shape)

    @property
    def box(self) -> Callable[[Tensor], Any]:
        """What is defended."""
        return self._box[0]

    @property
    def num_classes(self) -> int | None:
        """K of the box, None where it does not tell, as a box of images."""
        return _told(self.box, "num_classes")

    def forward(self, images: Tensor) -> Any:
        """Answer images (B, C, H, W) as the box does."""
        decoded = self.decode(self.encode(images))
        return _call(f"box {name_of(self.box)}", self.box, decoded, "the decoded images have")

    def encode(self, images: Tensor) -> Tensor:
        """Denoise and encode images (B, C, H, W): z (B, d)."""
        return self.compress(self.denoise(images))

    def denoise(self, images: Tensor) -> Tensor:
        """Denoise images (B, C, H, W)."""
        given = tuple(images.shape[1:])
        if images.ndim != 4 or given != (self.image_shape or given):
            expected = ", ".join(map(str, self.image_shape or ("C", "H", "W")))
            raise ValueError(
                f"images must have shape (B, {expected}), that of {self._told_by}, got {tuple(images.shape)}: "
                "choose parts for these images, or images for these parts"
            )
        name = f"denoiser {name_of(self.denoiser)}"
        denoised = _call(name, self.denoiser, images, "the images have")
        if denoised.shape != images.shape:
            raise ValueError(
                f"{name} must keep the shape of images {tuple(images.shape)}, returned {tuple(denoised.shape)}"
            )
        return denoised

    def compress(self, denoised: Tensor) -> Tensor:
        """Encode denoised images (B, C, H, W): z (B, d)."""
        self.image_shape = tuple(denoised.shape[1:])  # decode() goes by it
        return denoised.flatten(1) if self.autoencoder is None else self._code(self.autoencoder, denoised)

    def decode(self, z: Tensor) -> Tensor:
        """Turn z (B, d) into the images (B, C, H, W) that the box is asked."""
        if z.ndim != 2:
            raise ValueError(f"z must have shape (B, d), got {tuple(z.shape)}")
        if self.autoencoder is not None:
            return self._images(self.autoencoder, z)
        if self.image_shape is None:
            raise ValueError(
                f"decode needs the shape of images, which neither {name_of(self.denoiser)} nor {name_of(self.box)} "
                "tells: encode images first, or give the box an image_shape"
            )
        if z.shape[1] != math.prod(self.image_shape):
            raise ValueError(
                f"z must hold the {math.prod(self.image_shape)} pixels of an image {self.image_shape}, got "
                f"{z.shape[1]} numbers a row"
            )
        return z.unflatten(1, self.image_shape)

    def try_out(self, shape: Shape) -> int:
        """Send one black image (C, H, W) as far as the box, so that parts that do not fit are seen before any work.

        Returns:
            d, the numbers that an estimate of the box's gradient is taken in.

        Raises:
            ValueError: the parts do not fit each other, or the image.
        """
        weight = next(self.parameters(), torch.empty(0))
        with trying(self):
            z = self.encode(weight.new_zeros(1, *shape))
            self.decode(z)
        return z.shape[1]

    def freeze(self, halves: list[str]) -> None:
        """Take the autoencoder's ``encoder`` or ``decoder`` out of training: no gradients, and eval mode for good."""
        self._frozen = [getattr(self.autoencoder, half) for half in halves] if self.autoencoder is not None else []
        for half in self._frozen:
            half.requires_grad_(False)
            half.eval()

    def train(self, mode: bool = True) -> "DenoisedModel":
        """Leave what is frozen in eval mode, where BatchNorm and dropout answer as the box would."""
        super().train(mode)
        for half in self._frozen:
            half.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DenoisedModel":
        """Move, and the box with it: whoever attacks or certifies the defense knows this module alone."""
        super()._apply(fn, recurse)
        first = next(self.parameters(), None)
        if first is not None and isinstance(self.box, nn.Module):
            self.box.to(first.device)
        return self

    def _code(self, autoencoder: Any, images: Tensor) -> Tensor:
        """Encode denoised images (B, C, H, W)."""
        name = f"encoder of {name_of(autoencoder)}"
        z = _call(name, autoencoder.encoder, images, "the denoised images have")
        features = getattr(autoencoder, "features", None) or z.shape[-1]
        if z.shape != (len(images), features):
            raise ValueError(
                f"{name} must return z of shape ({len(images)}, {features}), returned {tuple(z.shape)} for images "
                f"{tuple(images.shape)}"
            )
        return z

    def _images(self, autoencoder: Any, z: Tensor) -> Tensor:
        """Decode z (B, d)."""
        name = f"decoder of {name_of(autoencoder)}"
        images = _call(name, autoencoder.decoder, z, "the encoder's z have")
        if images.shape != (len(z), *(self.image_shape or images.shape[1:])):
            raise ValueError(
                f"{name} makes images {tuple(images.shape[1:])} of z {tuple(z.shape)}, the encoder takes images "
                f"{self.image_shape}: choose the two halves of one autoencoder"
            )
        return images


def _told(part: Any, name: str) -> Any:
    """What a part tells of itself, or an oracle's model of itself, under a name; None where neither does."""
    own = getattr(part, name, None)
    return getattr(getattr(part, "model", None), name, None) if own is None else own


def _call(name: str, part: Any, given: Tensor, whose: str) -> Any:
    """Call a part; where torch says that shapes do not fit, name the part and what it was given."""
    try:
        return part(given)
    except RuntimeError as error:
        # Kinds of it (memory, a query cap, a victim's fault) say other things, and say them well.
        if type(error) is not RuntimeError:
            raise
        raise ValueError(f"{name} failed on the shape {tuple(given.shape)} that {whose}: {error}") from error
