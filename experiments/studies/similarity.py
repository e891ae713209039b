"""Fig. 4(d) of ZO-L2L: how near an optimizer's estimates come to the true gradients of black-box attacks."""

from cli import plain_messages
from experiments.studies.optimization import OptimizationCLI, OptimizationTask

EXAMPLES = """\
Measure an optimizer on attacks of a victim as the study optimization does, and in each iteration the cosine similarity
of its estimate to the victim's true gradient (Ruan et al. 2020, Fig. 4(d)), which costs a query more.

examples:
  python -m experiments.studies.similarity --checkpoint best.ckpt --rule ZOSGD --rule.delta 4 --rule.estimator RGE \\
    --rule.estimator.q 20 --rule.estimator.mu 1e-5 --rule.estimator.distribution gaussian --trials 1
"""


class SimilarityTask(OptimizationTask):
    """As :class:`OptimizationTask`, of a victim that tells its gradients; adds the figure ``cosine similarity``."""

    gradients = True


class SimilarityCLI(OptimizationCLI):
    """Parses, builds and runs the study of an optimizer's estimates."""

    study = "similarity"
    examples = EXAMPLES
    kind = SimilarityTask


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        SimilarityCLI().run()


if __name__ == "__main__":
    main()
