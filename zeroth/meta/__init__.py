"""Meta-training of optimizers: gradients of what an optimizer reaches, in the optimizer's own parameters."""

from zeroth.meta.meta_gradients import PES, TBPTT, MetaGradient, TruncatedES
from zeroth.meta.trajectories import Outcome, Task, Trajectories

__all__ = ["PES", "TBPTT", "MetaGradient", "Outcome", "Task", "Trajectories", "TruncatedES"]
