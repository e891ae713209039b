"""The networks of a learned optimizer's checkpoint as modules."""

from torch import nn

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
        _read(self, UpdateRNN, "update", checkpoint)


class CheckpointQueryRNN(QueryRNN):
    """The QueryRNN of an optimizer that train.py meta-trained, to use or to finetune it.

    Args:
        checkpoint: file that train.py wrote, runs/train-optimizer/<name>/checkpoints/best.ckpt.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of an optimizer, or has no QueryRNN.
    """

    def __init__(self, checkpoint: str) -> None:
        _read(self, QueryRNN, "query", checkpoint)


def _read(network: nn.Module, kind: type[UpdateRNN] | type[QueryRNN], part: str, checkpoint: str) -> None:
    """Build a network in its own place, of the size that the checkpoint has, with its weights."""
    held, start = read_weights(checkpoint, job=JOB), f"rule.{part}."
    state = held.get("state_dict", {}) if isinstance(held, dict) else {}
    weights = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if "output.weight" not in weights:
        raise ValueError(
            f"checkpoint {checkpoint} holds no {kind.__name__}: give one that train.py wrote for the system "
            f"OptimizerTraining with such a network, runs/{JOB}/<name>/checkpoints/best.ckpt"
        )
    kind.__init__(network, hidden=weights["output.weight"].shape[1])  # type: ignore[arg-type]
    network.checkpoint = checkpoint  # type: ignore[assignment]
    fill(network, weights, checkpoint)
