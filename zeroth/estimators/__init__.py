"""Gradient estimates from queries, and the door by which autograd takes them."""

from zeroth.estimators.box_loss import box_loss
from zeroth.estimators.bridge import RowDraw, RowFunction, black_box, with_gradient
from zeroth.estimators.cge import CGE
from zeroth.estimators.directions import Distribution, combine, grid_directions, probes, random_directions, slopes
from zeroth.estimators.estimator import Estimator
from zeroth.estimators.first_order import first_order
from zeroth.estimators.guided_es import GuidedES
from zeroth.estimators.learned_sampling import LearnedSampling
from zeroth.estimators.rge import RGE

__all__ = [
    "CGE",
    "RGE",
    "Distribution",
    "Estimator",
    "GuidedES",
    "LearnedSampling",
    "RowDraw",
    "RowFunction",
    "black_box",
    "box_loss",
    "combine",
    "first_order",
    "grid_directions",
    "probes",
    "random_directions",
    "slopes",
    "with_gradient",
]
