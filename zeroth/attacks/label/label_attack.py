"""What all attacks on labels have in common."""

from typing import ClassVar

from zeroth.attacks.attack import Attack
from zeroth.attacks.label.starts import Pool
from zeroth.oracles import LabelOracle, Oracle


class LabelAttack(Attack):
    """Base of the attacks that see labels alone: from an adversarial start they come nearer as long as they can ask.

    Attributes:
        pool: training images to start targeted attacks from; set it before the call, as attack.py does.
    """

    oracle_type: ClassVar[type[Oracle]] = LabelOracle
    stop_at_success: ClassVar[bool] = False
    pool: Pool | None = None
