"""Zeroth: attack, defend and certify image models that can only be queried. Plain PyTorch; no Trainer, no logger."""

__version__ = "0.1.0"
