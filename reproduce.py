"""Make a table of a paper: ``python reproduce.py configs/experiment/zo_ngd/table1_mnist.yaml --scale digits``."""

from cli import plain_messages
from experiments.workflow import reproduce


def main() -> None:
    """Run the stages that are left, then publish the table, ours beside theirs."""
    with plain_messages():
        reproduce()


if __name__ == "__main__":
    main()
