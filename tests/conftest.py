"""What all tests share: nothing they run may reach the network, open a window or depend on chance."""

import os

# Set before matplotlib or wandb are first imported, and inherited by the commands that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side, each with a thread a core, would take turns at the same cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture
def last_line(tmp_path, capsys):
    """Run a command that must fail; gives its last line."""

    from tests.runs import QUIET, run  # here, because it loads Lightning

    def go(command, *words, code=2) -> str:
        with pytest.raises(SystemExit) as end:
            run(command, "--run.root", tmp_path, *QUIET, *words)
        captured = capsys.readouterr()
        assert end.value.code == code
        assert "Traceback" not in captured.err
        return captured.err.splitlines()[-1]

    return go
