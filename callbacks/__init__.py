"""What happens around a run: evaluations inside fit, records, lineage, reports, progress, logging."""

from callbacks.attack_evaluation import AttackEvaluation
from callbacks.certification import Certification
from callbacks.selection import Selection

__all__ = ["AttackEvaluation", "Certification", "Selection"]
