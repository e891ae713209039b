"""The query boundary: what may be asked of a black box, counted and bounded."""

from zeroth.oracles.goal import Ball, Goal, distance, margin
from zeroth.oracles.images import ImageGradientOracle, ImageOracle
from zeroth.oracles.journal import Journal, JournalMismatch
from zeroth.oracles.oracle import GradientOracle, LabelOracle, Oracle, QueryCapError, ScoreOracle, WhiteBoxOracle
from zeroth.oracles.rules import ProgressUpdate, Rules
from zeroth.oracles.scores import Output, VictimError
from zeroth.oracles.streams import ImageStreams
from zeroth.oracles.trial import Trial

__all__ = [
    "Ball",
    "Goal",
    "GradientOracle",
    "ImageGradientOracle",
    "ImageOracle",
    "ImageStreams",
    "Journal",
    "JournalMismatch",
    "LabelOracle",
    "Oracle",
    "Output",
    "ProgressUpdate",
    "QueryCapError",
    "Rules",
    "ScoreOracle",
    "Trial",
    "VictimError",
    "WhiteBoxOracle",
    "distance",
    "margin",
]
