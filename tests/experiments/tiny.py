"""A small experiment on the digits."""

from pathlib import Path
from typing import Any

import yaml

CHEAP = {"images.count": "{images}", "batch_size": 4}


def tiny() -> dict[str, Any]:
    """The file as plain values; victims of three epochs are those of ``tests.runs.digits_checkpoint``."""
    return {
        "title": "Tiny",
        "paper": "Nobody 2020",
        "dataset": {"digits": "digits"},
        "scales": {"digits": {"images": 12, "radius": 0.25}},
        "rate": {"digits": 1000},
        "kind": "attack",
        "defaults": {"attack": {**CHEAP, "budget": 60}, "certify": CHEAP},
        "stages": {
            "victim": {"job": "train", "options": {"config": "configs/victim/digits.yaml", "trainer.max_epochs": 3}},
            "zo": {
                "job": "attack",
                "victim": "victim",
                "options": {"attack": "configs/attack/zo_ngd.yaml", "attack.epsilon": "{radius}"},
            },
            "nes": {"job": "attack", "victim": "victim", "options": {"attack": "NESPGD", "budget": 40}},
            "sure": {"job": "certify", "victim": "victim", "options": {"certify.n": 90, "certify.n0": 10}},
        },
        "rows": [{"method": "ZO-NGD", "stage": "zo"}, {"method": "NES-PGD", "stage": "nes"}],
        "pictures": {"success": {"kind": "success"}},
    }


def written(folder: Path, **changes: Any) -> Path:
    """Write the file with other top-level values, None leaving one out; returns its path."""
    path = folder / "paper" / "table.yaml"
    path.parent.mkdir(exist_ok=True)
    values = {key: value for key, value in (tiny() | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
