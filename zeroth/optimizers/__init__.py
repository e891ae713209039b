"""Optimizers beyond those of torch: zeroth-order rules over batches of problems, and what torch.optim lacks."""

from zeroth.optimizers.adam_then_sgd import AdamThenSGD
from zeroth.optimizers.black_box import BlackBoxOptimizer
from zeroth.optimizers.learned import LearnedOptimizer
from zeroth.optimizers.zeroth_order import State, Step, ZerothOrder
from zeroth.optimizers.zo_adam import ZOAdam
from zeroth.optimizers.zo_sgd import ZOSGD
from zeroth.optimizers.zo_sign_sgd import ZOSignSGD
from zeroth.optimizers.zo_szvr_g import ZOSZVRG

__all__ = [
    "ZOSGD",
    "ZOSZVRG",
    "AdamThenSGD",
    "BlackBoxOptimizer",
    "LearnedOptimizer",
    "State",
    "Step",
    "ZOAdam",
    "ZOSignSGD",
    "ZerothOrder",
]
