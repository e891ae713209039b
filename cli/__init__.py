"""The command line that train.py, tune.py, attack.py and certify.py share."""

from cli.attacking import AttackCLI
from cli.certifying import CertifyCLI
from cli.faults import plain_messages
from cli.training import TrainCLI
from cli.tuning import TuneCLI

__all__ = ["AttackCLI", "CertifyCLI", "TrainCLI", "TuneCLI", "plain_messages"]
