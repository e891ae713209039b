"""The command line that train.py, attack.py and certify.py share."""

from cli.attacking import AttackCLI
from cli.certifying import CertifyCLI
from cli.faults import plain_messages
from cli.training import TrainCLI

__all__ = ["AttackCLI", "CertifyCLI", "TrainCLI", "plain_messages"]
