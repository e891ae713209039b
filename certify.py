"""Certify a victim by randomized smoothing: ``python certify.py --checkpoint FILE``."""

from cli import CertifyCLI, plain_messages


def main() -> None:
    """Evaluate what is not recorded yet, then write the report."""
    with plain_messages():
        CertifyCLI().run()


if __name__ == "__main__":
    main()
