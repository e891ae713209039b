"""Batches of problems that optimizers are tried, tuned and meta-trained on, known by their values."""

from zeroth.problems.attack_problems import AttackProblems
from zeroth.problems.binary_classification import BinaryClassification
from zeroth.problems.problems import Problems
from zeroth.problems.quadratics import Quadratics
from zeroth.problems.trajectory import Curves, Window, minimize, unroll

__all__ = [
    "AttackProblems",
    "BinaryClassification",
    "Curves",
    "Problems",
    "Quadratics",
    "Window",
    "minimize",
    "unroll",
]
