"""The denoiser of a checkpoint as a module."""

from torch import Tensor, nn

from zeroth.networks._checkpoints import read_network

JOB = "train-defense"


class CheckpointDenoiser(nn.Module):
    """The denoiser of a defense that train.py trained: images (B, C, H, W) -> denoised (B, C, H, W).

    It starts from the checkpoint's weights and is trained on like any module: to fine-tune a denoiser that was
    pre-trained by its own error (ZO-AE-DS, Table 4), or to go on with another optimizer.

    Args:
        checkpoint: file that train.py wrote, runs/train-defense/<name>/checkpoints/best.ckpt.

    Attributes:
        network: the module that was trained.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of a defense, or its denoiser cannot be built.
    """

    answers = "images"  # no victim of attacks

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.network, settings = read_network(checkpoint, part="denoiser", job=JOB)
        if "denoiser" not in settings:
            raise ValueError(
                f"checkpoint {checkpoint} holds a {type(self.network).__name__} and no denoiser: give one that "
                f"train.py wrote for the system DenoisedSmoothing, runs/{JOB}/<name>/checkpoints/best.ckpt"
            )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
