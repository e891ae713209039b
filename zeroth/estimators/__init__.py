"""Gradient estimates from queries."""

from zeroth.estimators.cge import CGE
from zeroth.estimators.directions import Distribution, combine, grid_directions, probes, random_directions, slopes
from zeroth.estimators.estimator import Estimator
from zeroth.estimators.rge import RGE

__all__ = [
    "CGE",
    "RGE",
    "Distribution",
    "Estimator",
    "combine",
    "grid_directions",
    "probes",
    "random_directions",
    "slopes",
]
