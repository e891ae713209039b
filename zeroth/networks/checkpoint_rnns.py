"""The networks of a learned optimizer's checkpoint as modules, and those that ship with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from zeroth.networks._checkpoints import fill, read_weights
from zeroth.networks.query_rnn import QueryRNN
from zeroth.networks.update_rnn import UpdateRNN

JOB = "train-optimizer"
# Trained on attacks of the small MNIST victim by configs/optimizer/mnist_attack.yaml, then mnist_attack_query.yaml,
# before these let the learning rate decay: the metadata of the file has the settings.
SHIPPED = Path(__file__).with_name("zo_lstm_mnist.safetensors")
PARTS = {"update": "UpdateRNN", "query": "QueryRNN"}


def shipped_optimizer() -> str:
    """Return the file of the UpdateRNN and QueryRNN that ship with the package, which were trained on MNIST attacks.

    Raises:
        FileNotFoundError: this copy of the package has none.
    """
    if not SHIPPED.is_file():
        raise FileNotFoundError(
            f"this copy of the package ships no {SHIPPED.name}: give the checkpoint of an optimizer of your own, "
            f"runs/{JOB}/<name>/checkpoints/best.ckpt, or put one in its place by "
            "python -m experiments.ship_optimizer CHECKPOINT"
        )
    return str(SHIPPED)


class CheckpointUpdateRNN(UpdateRNN):
    """The UpdateRNN of an optimizer that train.py meta-trained: to train a QueryRNN beside it, or to finetune it.

    Args:
        checkpoint: file that train.py wrote, runs/train-optimizer/<name>/checkpoints/best.ckpt, or one of
            :func:`export_optimizer`; None for the one that ships with the package, trained on MNIST attacks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of an optimizer, or has no UpdateRNN.
    """

    default_checkpoint = staticmethod(shipped_optimizer)

    def __init__(self, checkpoint: str | None = None) -> None:
        source = checkpoint or self.default_checkpoint()
        weights = _weights(source, "update")
        super().__init__(hidden=weights["output.weight"].shape[1])
        self.checkpoint = checkpoint
        fill(self, weights, source)


class CheckpointQueryRNN(QueryRNN):
    """The QueryRNN of an optimizer that train.py meta-trained, to use or to finetune it.

    Args:
        checkpoint: file that train.py wrote, runs/train-optimizer/<name>/checkpoints/best.ckpt, or one of
            :func:`export_optimizer`; None for the one that ships with the package, trained on MNIST attacks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of an optimizer, or has no QueryRNN.
    """

    default_checkpoint = staticmethod(shipped_optimizer)

    def __init__(self, checkpoint: str | None = None) -> None:
        source = checkpoint or self.default_checkpoint()
        weights = _weights(source, "query")
        super().__init__(hidden=weights["output.weight"].shape[1])
        self.checkpoint = checkpoint
        fill(self, weights, source)


def export_optimizer(checkpoint: str, file: Path, *, told: Mapping[str, str] | None = None) -> None:
    """Write the two networks of a meta-trained optimizer alone, as the package ships them.

    Args:
        checkpoint: file that train.py wrote, with an UpdateRNN and a QueryRNN.
        file: .safetensors.
        told: where they come from, kept in the metadata of the file.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it lacks one of the networks.
    """
    networks = {
        f"rule.{part}.{key}": value.contiguous() for part in PARTS for key, value in _weights(checkpoint, part).items()
    }
    save_file(networks, file, metadata=dict(told or {}))


def without_files(networks: Mapping[str, Any]) -> dict[str, Any]:
    """Describe networks that came from files by class_path and init_args, to be rebuilt without those; no others."""
    told = {}
    for name, network in networks.items():
        if isinstance(network, CheckpointUpdateRNN | CheckpointQueryRNN):
            kind = UpdateRNN if isinstance(network, UpdateRNN) else QueryRNN
            path = f"{kind.__module__}.{kind.__qualname__}"
            told[name] = {"class_path": path, "init_args": {"hidden": network.hidden}}
    return told


def _weights(checkpoint: str, part: str) -> dict[str, Tensor]:
    """Return the named weights of a part of the rule in a checkpoint, or in an exported file."""
    held: Any = read_weights(checkpoint, job=JOB)
    state = held.get("state_dict", held) if isinstance(held, dict) else {}
    start = f"rule.{part}."
    weights = {
        key.removeprefix(start): value for key, value in state.items() if isinstance(key, str) and key.startswith(start)
    }
    if "output.weight" not in weights:
        raise ValueError(
            f"checkpoint {checkpoint} holds no {PARTS[part]}: give one that train.py wrote for the system "
            f"OptimizerTraining with such a network, runs/{JOB}/<name>/checkpoints/best.ckpt"
        )
    return weights
