"""What all tests share: nothing they run may reach the network, open a window or depend on chance."""

import os

# Set before matplotlib or wandb are first imported, and inherited by the commands that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

from pathlib import Path

import pytest
from hypothesis import settings

# derandomize: a failure is seen again; no deadline: torch is slow when first called, CI machines are shared.
settings.register_profile("zeroth", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("zeroth")


@pytest.fixture(autouse=True)
def _wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep offline W&B runs out of the checkout."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
