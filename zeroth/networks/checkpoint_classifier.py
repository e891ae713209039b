"""The classifier of a checkpoint as a module."""

from torch import Tensor, nn

from zeroth.networks._checkpoints import read_network


class CheckpointClassifier(nn.Module):
    """The network of a checkpoint of train.py: images (B, C, H, W) in [0, 1] -> logits (B, K).

    For wherever a module stands beside the one that is attacked or trained: as an attack's surrogate, as the victim of
    a substitute. It stays in eval mode whatever its owner does, and its parameters take no gradient; images do.

    Args:
        checkpoint: file that train.py wrote.

    Attributes:
        network: the module that was trained.
        num_classes, image_shape: the network's own, None where it does not tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of train.py, or its network cannot be built.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.network, settings = read_network(checkpoint)
        self.num_classes: int | None = settings.get("num_classes") or getattr(self.network, "num_classes", None)
        self.image_shape = getattr(self.network, "image_shape", None)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "CheckpointClassifier":
        """Stay in eval mode: a module that holds this one trains itself alone."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
