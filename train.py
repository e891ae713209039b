"""Train a victim: ``python train.py [--config configs/victim/digits.yaml]``."""

from cli import TrainCLI, plain_messages


def main() -> None:
    """Fit, then test the best checkpoint."""
    with plain_messages():
        TrainCLI().train()


if __name__ == "__main__":
    main()
