"""Attack a victim: ``python attack.py --checkpoint FILE --attack configs/attack/zo_ngd.yaml``."""

from cli import AttackCLI, plain_messages


def main() -> None:
    """Evaluate what is not recorded yet, then write the report."""
    with plain_messages():
        AttackCLI().run()


if __name__ == "__main__":
    main()
