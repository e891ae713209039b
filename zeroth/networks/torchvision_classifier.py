"""Any torchvision classifier by name, with its published weights and their normalisation if wanted."""

import difflib
from typing import Any

import torchvision.models
from torch import Tensor, nn
from torchvision.models import Weights

from zeroth.networks._normalize import Normalize


class TorchvisionClassifier(nn.Module):
    """A model of `torchvision.models` that takes images (B, 3, H, W) in [0, 1] and gives logits (B, num_classes).

    Args:
        name: the model's torchvision name, e.g. resnet18, resnet50, vit_b_16, inception_v3.
        weights: name of published weights, e.g. DEFAULT or IMAGENET1K_V1 (downloaded once into torch's hub folder);
            null starts from scratch. With weights, num_classes, mean and std are the weights' own.
        num_classes: number of classes K; null means the weights' number, or 1,000 without weights.
        mean: pixel mean of each channel, without weights (default ImageNet's).
        std: pixel standard deviation of each channel, without weights.
        options: further arguments of torchvision's own model, e.g. {image_size: 32} for vit_b_16.

    Raises:
        ValueError: unknown name or weights (the message lists near names), num_classes is not the weights' number, or
            the model does not take the options.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = None,
        num_classes: int | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(f"torchvision has no classifier {name!r}; did you mean one of {_near(name, known)}?")
        options = options or {}
        implied: dict[str, Any] = {}
        if weights is not None:
            members = torchvision.models.get_model_weights(name).__members__
            if weights not in members:
                raise ValueError(f"{name} has no weights {weights!r}; torchvision offers {', '.join(members)}")
            published: Weights = members[weights].value
            classes = len(published.meta["categories"] or ())
            if classes == 0:
                raise ValueError(f"weights {weights} of {name} are those of a feature extractor: they tell no classes")
            if num_classes not in (None, classes):
                raise ValueError(
                    f"num_classes={num_classes}, but the weights {weights} of {name} have {classes} classes; "
                    "leave num_classes out, or weights to train from scratch"
                )
            preset = published.transforms()
            num_classes, mean, std = classes, tuple(preset.mean), tuple(preset.std)
            implied = _implied(name, published)
        self.name = name
        self.weights = weights
        self.num_classes = 1000 if num_classes is None else num_classes
        self.mean = mean
        self.std = std
        self.normalize = Normalize(mean, std)
        self.options = {**implied, **options}
        try:
            self.model = torchvision.models.get_model(name, weights=weights, num_classes=self.num_classes, **options)
        except TypeError as error:
            raise ValueError(f"torchvision's {name} does not take options={options}: {error}") from error

    @property
    def rebuild_args(self) -> dict[str, Any]:
        """Constructor arguments of the same model before its weights, for a state_dict to fill: nothing to download."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "mean": self.mean,
            "std": self.std,
            "options": self.options,
        }

    def forward(self, images: Tensor) -> Tensor:
        scores = self.model(self.normalize(images))
        # GoogLeNet and Inception also give auxiliary logits while they train.
        return scores if isinstance(scores, Tensor) else scores.logits


def _implied(name: str, published: Weights) -> dict[str, Any]:
    """Arguments that torchvision sets by itself where weights are asked for; no random start, which is slow."""
    if name == "googlenet":
        return {"transform_input": True, "aux_logits": False, "init_weights": False}
    if name == "inception_v3":
        return {"transform_input": True, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": published.meta["min_size"][0]}
    if name.startswith("maxvit_"):
        return {"input_size": list(published.meta["min_size"])}
    return {}


def _near(name: str, known: list[str]) -> str:
    """The names most like `name`, or all of them where none is."""
    return ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known)
