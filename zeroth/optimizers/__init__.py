"""Optimizers beyond those of torch."""

from zeroth.optimizers.adam_then_sgd import AdamThenSGD

__all__ = ["AdamThenSGD"]
