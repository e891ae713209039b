"""Put the networks of a meta-trained optimizer into the package, which LearnedZO() takes.

``python -m experiments.ship_optimizer runs/train-optimizer/mnist_attack_query/checkpoints/best.ckpt``
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.lineage import parent_of, read_lineage
from cli import plain_messages
from zeroth.networks.checkpoint_rnns import SHIPPED, export_optimizer

# They tell a place on one machine; what lies there is told by its sha256.
PLACES = ("checkpoint", "path")


def training_told(checkpoint: Path) -> dict[str, str]:
    """Say where an optimizer comes from, as the metadata of a safetensors file: JSON texts by name.

    Args:
        checkpoint: runs/train-optimizer/<name>/checkpoints/best.ckpt.

    Returns:
        ``sha256`` of the checkpoint; ``settings`` of its training; ``parents``, the files that it was built on, with
        the settings' hashes and parents of theirs; ``commit`` and ``versions`` of its first start.

    Raises:
        FileNotFoundError: there is no such checkpoint, or no lineage.json of its run.
        ValueError: that lineage.json is damaged.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"checkpoint {checkpoint} does not exist: give runs/train-optimizer/<name>/checkpoints/best.ckpt"
        )
    lineage = read_lineage(checkpoint.parent.parent)
    told = {"sha256": parent_of(checkpoint)["sha256"]}
    told |= {name: lineage.get(name) for name in ("settings", "parents", "commit", "versions")}
    return {name: json.dumps(_placeless(value)) for name, value in told.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Write the file of the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of train.py, with an UpdateRNN and a QueryRNN")
    parser.add_argument("--file", type=Path, default=SHIPPED, help="default: the package's own")
    options = parser.parse_args(words)
    with plain_messages():
        export_optimizer(str(options.checkpoint), options.file, told=training_told(options.checkpoint))
        print(options.file)


def _placeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _placeless(item) for key, item in value.items() if key not in PLACES}
    return [_placeless(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
