"""certify.py's own options: the noise, the samples, the confidence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from callbacks.certification_report import report_certification
from callbacks.record_writer import CertificationRecordWriter
from callbacks.tasks import CertificationTask
from cli.recording import RecordsCLI

EXAMPLES = """\
Certify a victim by randomized smoothing (Cohen et al. 2019). Cohen's TSV, report.json and the certified-accuracy curve
go to runs/certify/<name>; a killed run goes on where it was when the same command is given again.

examples:
  python certify.py --checkpoint runs/train-victim/digits_noise/checkpoints/best.ckpt --certify.n 1000
  python certify.py --checkpoint best.ckpt --certify.sigma 0.5 --certify.n 10000 --images.stride 20
  python certify.py --checkpoint best.ckpt --certify configs/certify/cohen.yaml --shard 1/4
"""


@dataclass
class CertifyOptions:
    """Randomized smoothing.

    Args:
        sigma: standard deviation of the noise, [0, 1] pixels.
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: probability that a certificate is wrong.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001


class CertifyCLI(RecordsCLI):
    """Parses, builds and runs a certification of the selected images."""

    job = "certify"
    examples = EXAMPLES
    batch_size = 10
    outcome_keys = ("certify",)

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the certifier's options."""
        parser.add_class_arguments(CertifyOptions, "certify")

    def build_task(self, victim: Callable[..., Any], num_classes: int) -> CertificationTask:
        """The certification of a batch."""
        options: CertifyOptions = self.config_init.certify
        try:
            return CertificationTask(
                victim,
                num_classes,
                sigma=options.sigma,
                n0=options.n0,
                n=options.n,
                alpha=options.alpha,
                seed=self.config_init.seed,
                output=self.victim_options.output,
                max_batch=self.config_init.max_batch,
            )
        except ValueError as error:  # names one of the four
            raise ValueError(f"certify.{error}") from error

    def build_writer(self) -> CertificationRecordWriter:
        """Cohen's rows."""
        return CertificationRecordWriter(self.folder, self.header("certificate"))

    def method_name(self) -> str:
        """The noise level."""
        return f"sigma{self.config_init.certify.sigma:g}"

    def report(self) -> Mapping[str, Any]:
        """Merge and show."""
        options: CertifyOptions = self.config_init.certify
        return report_certification(
            self.trainer,
            self.folder,
            sigma=options.sigma,
            n=options.n,
            alpha=options.alpha,
            images=self.data.total,
            parents=self.parents(),
        )
