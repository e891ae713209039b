"""Tune an attack: ``python tune.py --checkpoint FILE --attack configs/attack/zo_ngd.yaml --trials 40``."""

from cli import TuneCLI, plain_messages


def main() -> None:
    """Try what has not been tried yet, then write the tuned attack."""
    with plain_messages():
        TuneCLI().run()


if __name__ == "__main__":
    main()
