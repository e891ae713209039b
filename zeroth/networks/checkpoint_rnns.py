"""The networks of a learned optimizer's checkpoint as modules."""

from torch import Tensor

from zeroth.networks._checkpoints import fill, read_weights
from zeroth.networks.query_rnn import QueryRNN
from zeroth.networks.update_rnn import UpdateRNN

JOB = "train-optimizer"


class CheckpointUpdateRNN(UpdateRNN):
    """The UpdateRNN of an optimizer that train.py meta-trained: to train a QueryRNN beside it, or to finetune it.

    Args:
        checkpoint: file that train.py wrote, runs/train-optimizer/<name>/checkpoints/best.ckpt.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of an optimizer, or has no UpdateRNN.
    """

    def __init__(self, checkpoint: str) -> None:
        weights = _weights(checkpoint, "update", "UpdateRNN")
        super().__init__(hidden=weights["output.weight"].shape[1])
        self.checkpoint = checkpoint
        fill(self, weights, checkpoint)


class CheckpointQueryRNN(QueryRNN):
    """The QueryRNN of an optimizer that train.py meta-trained, to use or to finetune it.

    Args:
        checkpoint: file that train.py wrote, runs/train-optimizer/<name>/checkpoints/best.ckpt.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of an optimizer, or has no QueryRNN.
    """

    def __init__(self, checkpoint: str) -> None:
        weights = _weights(checkpoint, "query", "QueryRNN")
        super().__init__(hidden=weights["output.weight"].shape[1])
        self.checkpoint = checkpoint
        fill(self, weights, checkpoint)


def _weights(checkpoint: str, part: str, name: str) -> dict[str, Tensor]:
    """Return the named weights of a part of the rule in a checkpoint."""
    held, start = read_weights(checkpoint, job=JOB), f"rule.{part}."
    state = held.get("state_dict", {}) if isinstance(held, dict) else {}
    weights = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if "output.weight" not in weights:
        raise ValueError(
            f"checkpoint {checkpoint} holds no {name}: give one that train.py wrote for the system "
            f"OptimizerTraining with such a network, runs/{JOB}/<name>/checkpoints/best.ckpt"
        )
    return weights
