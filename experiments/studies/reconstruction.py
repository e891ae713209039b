"""Table 5 and Fig. 5 of ZO-AE-DS: a reconstructor, defended or not, under l_2 attacks on what it takes.

Shapes: B images of C x H x W pixels, X radii.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn

from callbacks.tasks import EvaluationTask
from cli import plain_messages
from experiments.reconstructions import image_of, image_text, reconstructions_figure
from experiments.studies.image_rows import ImageRows, Row
from experiments.studies.study import StudyCLI, curve
from lightning_modules import DenoisedReconstruction, Reconstruction
from lightning_modules.reconstruction import image_errors, originals_of
from zeroth.defenses.reconstruction_attack import mean_answer, reconstruction_pgd
from zeroth.oracles import ImageGradientOracle, ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.records.plots import save_figure

EXAMPLES = """\
Measure how well a reconstructor, or a defended one, recovers images whose inputs are attacked (Zhang et al. 2022, Table
5). study.json, a row an image and a picture go to runs/study/<name>; a killed study goes on with the images left.

examples:
  python -m experiments.studies.reconstruction --checkpoint best.ckpt --images.count 200
  python -m experiments.studies.reconstruction --checkpoint best.ckpt --epsilons 0 1 --attack_noises 2
"""
EPSILONS = (0.0, 1.0, 2.0, 3.0, 4.0)
WAYS = ("non-adaptive", "adaptive")
METRICS = ("RMSE", "SSIM")
DEFENDED, ROWS, PICTURE = "defended output", "rows.jsonl", "reconstructions.png"
Noise = Literal["fresh", "fixed"]


class ReconstructionTask(EvaluationTask):
    """Attacks batches of measured images at each radius, by both attacks, and measures the answers.

    An undefended image costs a query for each step of the attack, and one for each radius. Of a defended one the
    non-adaptive attack asks the box as much, the adaptive one the defense ``attack_noises`` times a step, and each
    output ``noises`` queries of the defense. At radius 0 there is nothing to craft, and both attacks are one.

    Args:
        system: of a checkpoint.
        epsilons: radii, l_2 in [0, 1] pixels of what the reconstructor takes.
        steps: of an attack.
        attack_noises: draws of noise that a step of the adaptive attack averages over.
        attack_noise: draw them at each step, or once for all steps.
        noises: draws that a defended output is the mean of.
        pictures: of how many images the rows keep the answers, the first ones.
        seed: with the dataset index it fixes all random draws of an image; attacker and defender draw their own.
        max_batch: most images asked at once.

    Raises:
        ValueError: an argument is out of range, or the system is no reconstructor.

    Attributes:
        rows: where rows are kept; None keeps none.
        queries: images that box and defense have answered so far.
    """

    def __init__(
        self,
        system: Any,
        *,
        epsilons: Sequence[float] = EPSILONS,
        steps: int = 40,
        attack_noises: int = 10,
        attack_noise: Noise = "fresh",
        noises: int = 10,
        pictures: int = 0,
        seed: int = 0,
        max_batch: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(system, Reconstruction | DenoisedReconstruction):
            raise ValueError(
                f"this study is of reconstructors, got a {type(system).__name__}: give --checkpoint of a training of "
                "Reconstruction or DenoisedReconstruction"
            )
        if list(epsilons) != sorted(set(epsilons)) or not epsilons or epsilons[0] < 0:
            raise ValueError(f"epsilons must be radii of 0 or more, ascending, each once, got {list(epsilons)}")
        for field, number, least in (
            ("steps", steps, 1),
            ("attack_noises", attack_noises, 1),
            ("noises", noises, 1),
            ("pictures", pictures, 0),
        ):
            if number < least:
                raise ValueError(f"{field} must be at least {least}, got {number}")
        self.system: nn.Module = system
        self.epsilons, self.steps, self.pictures = tuple(epsilons), steps, pictures
        self.attack_noises, self.attack_noise, self.noises = attack_noises, attack_noise, noises
        self.seed, self.max_batch = seed, max_batch
        self.rows: ImageRows | None = None
        self.queries = 0
        self._met = 0

    @property
    def defended(self) -> bool:
        """Whether a defense stands in front of the box."""
        return isinstance(self.system, DenoisedReconstruction)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Measure a batch with keys image and original (B, C, H, W), label (B,) and index (B,), unless it has its rows.

        Returns:
            (B, X) errors of each metric and attack.
        """
        rows = None if self.rows is None else self.rows.of(batch["index"].tolist())
        if rows is None:
            rows = self.measure(batch)
            if self.rows is not None:
                self.rows.append(rows)
        self._met += len(rows)
        self.queries += sum(row["queries"] for row in rows)
        return {name: torch.tensor([row["errors"][name] for row in rows]) for name in rows[0]["errors"]}

    def measure(self, batch: dict[str, Tensor]) -> list[Row]:
        """Return a row an image: ``index``, ``label``, ``queries``, ``errors`` and, of the first ones, ``images``."""
        inputs, originals = batch["image"], originals_of(batch)
        errors: dict[str, list[Tensor]] = {f"{metric}, {way}": [] for metric in METRICS for way in WAYS}
        shown: dict[str, list[Tensor]] = {way: [] for way in WAYS}
        box, whole = self._oracles(inputs.device)
        for epsilon in self.epsilons:
            answers = inputs
            for way in WAYS:
                if way == "non-adaptive" or (self.defended and epsilon > 0):  # else the attacks are one
                    points = self._attack(way, box, whole, inputs, originals, epsilon, batch["index"])
                    answers = mean_answer(
                        whole, points, streams=self._streams(batch["index"], DEFENDED, inputs.device), **self._noise()
                    )
                for metric, values in zip(METRICS, image_errors(answers, originals), strict=True):
                    errors[f"{metric}, {way}"].append(values.cpu())
                shown[way].append(answers.cpu())
        asked = (box.queries + (whole.queries if self.defended else 0)) // len(inputs)
        tables = {name: torch.stack(values, 1).tolist() for name, values in errors.items()}
        rows: list[Row] = []
        for place, (index, label) in enumerate(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True)):
            row: Row = {"index": index, "label": label, "queries": asked}
            row["errors"] = {name: table[place] for name, table in tables.items()}
            if self._met + place < self.pictures:
                row["images"] = {
                    "original": image_text(originals[place].cpu()),
                    **{way: [image_text(answers[place]) for answers in told] for way, told in shown.items()},
                }
            rows.append(row)
        return rows

    def _attack(
        self,
        way: str,
        box: ImageGradientOracle,
        whole: ImageGradientOracle,
        inputs: Tensor,
        originals: Tensor,
        epsilon: float,
        indices: Tensor,
    ) -> Tensor:
        """The inputs (B, C, H, W) moved by one attack; both begin at the same places."""
        adaptive: dict[str, Any] = {}
        if way == "adaptive":
            adaptive = {**self._noise(self.attack_noises), "fresh": self.attack_noise == "fresh"}
        return reconstruction_pgd(
            whole if adaptive else box,
            inputs,
            originals,
            epsilon=epsilon,
            streams=self._streams(indices, "attack", inputs.device),
            steps=self.steps,
            **adaptive,
        )

    def _oracles(self, device: torch.device) -> tuple[ImageGradientOracle, ImageGradientOracle]:
        """The box, and the box behind its defense, which is the same one where there is none."""
        system: Any = self.system
        options: dict[str, Any] = {"max_batch": self.max_batch, "device": device}
        box = ImageGradientOracle(system.defense.box if self.defended else system.network, **options)
        return box, ImageGradientOracle(system.defense, clamp=False, **options) if self.defended else box

    def _noise(self, noises: int | None = None) -> dict[str, Any]:
        """The noise of the defense, as many draws as it takes itself unless it is said otherwise."""
        system: Any = self.system
        return {"sigma": system.sigma, "noises": noises or self.noises} if self.defended else {}

    def _streams(self, indices: Tensor, whose: str, device: torch.device) -> ImageStreams:
        return ImageStreams(derived_seed(self.seed, int(whose == DEFENDED)), indices, device)


class ReconstructionCLI(StudyCLI):
    """Parses, builds and runs the study of a reconstructor."""

    study = "reconstruction"
    examples = EXAMPLES
    batch_size = 50
    batch_help = "a kill loses at most one batch"
    task: ReconstructionTask
    outcome_keys = ("epsilons", "steps", "attack_noises", "attack_noise", "noises", "pictures", "pictured")

    def add_job_arguments(self, parser: LightningArgumentParser) -> None:
        """Add the attacks, the outputs and what is shown of them."""
        add = parser.add_argument
        add("--epsilons", type=float, nargs="+", default=list(EPSILONS), help="l_2 radii, [0, 1] pixels of the inputs")
        add("--steps", type=int, default=40, help="steps of an attack")
        add("--attack_noises", type=int, default=10, help="draws that a step of the adaptive attack averages over")
        add("--attack_noise", type=Noise, default="fresh", help="its draws: fresh at each step, or fixed for all")
        add("--noises", type=int, default=10, help="draws that a defended output is the mean of")
        add("--pictures", type=int, default=10, help="images that are shown, the first ones")
        add("--pictured", type=float, default=1.0, help="radius at which study.json shows them")

    def build_task(self, victim: Any, num_classes: int) -> ReconstructionTask:
        """Both attacks at all radii."""
        config = self.config_init
        if config.pictures and config.pictured not in config.epsilons:
            raise ValueError(f"pictured must be one of the epsilons {config.epsilons}, got {config.pictured}")
        names = ("epsilons", "steps", "attack_noises", "attack_noise", "noises", "pictures", "seed", "max_batch")
        return ReconstructionTask(victim, **{name: config[name] for name in names})

    def run(self) -> None:
        """Measure the images that have no row yet, and draw the first ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task.rows = ImageRows(self.folder / ROWS, self.settings)
        super().run()
        if (rows := self._pictured()) and not (self.folder / PICTURE).is_file():
            save_figure(reconstructions_figure(self._lines(rows)), self.folder / PICTURE)

    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Average the errors over the images, with intervals."""
        config, rows = self.config_init, self._pictured()
        told: dict[str, Any] = {
            "kind": "lines",
            "x": {"name": "||delta||_2", "values": config.epsilons, "log": False},
            "y": {"name": "RMSE and SSIM"},
            "lines": [curve(name, errors, config.seed) for name, errors in values.items()],
            "notes": self._notes(),
        }
        if rows:
            place = config.epsilons.index(config.pictured)
            told["examples"] = {
                "index": [row["index"] for row in rows],
                "epsilon": config.pictured,
                "shape": list(self.config_init.data.image_shape),
                "original": [row["images"]["original"] for row in rows],
                **{way: [row["images"][way][place] for row in rows] for way in WAYS},
            }
        return told

    def _notes(self) -> list[str]:
        """What the figures are of."""
        config, system = self.config_init, self.task.system
        notes = [
            "RMSE is the mean over the images of the root of an image's mean squared error; both metrics compare with "
            "the true image.",
            f"Attacks move the back-projection in an l_2 ball: {config.steps} steps of length 2 epsilon / "
            f"{config.steps} along the gradient of the squared error, from a random point of its sphere, clamped to "
            "[0, 1].",
        ]
        if not isinstance(system, DenoisedReconstruction):
            return [*notes, "Nothing stands in front of the box: the adaptive attack is the non-adaptive one."]
        return [
            *notes,
            f"A defended output is the mean over {config.noises} draws of noise, sigma {system.sigma:g}. Non-adaptive "
            "attacks are crafted on the box without its defense, as the paper's; adaptive ones through all of it, by "
            f"the error of the mean answer over {config.attack_noises} draws a step, {config.attack_noise}.",
        ]

    def _pictured(self) -> list[Row]:
        """The rows that keep images, in the order of the images."""
        return [row for row in self.task.rows or () if "images" in row]

    def _lines(self, rows: Sequence[Row]) -> dict[str, list[np.ndarray]]:
        """What the picture of this run shows: the true images, then the answers by attack and radius."""
        shape, radii = self.config_init.data.image_shape, self.config_init.epsilons
        lines = {"true image": [image_of(row["images"]["original"], shape) for row in rows]}
        for way in WAYS if self.task.defended else WAYS[:1]:
            for place, radius in enumerate(radii):
                lines[f"{way}, {radius:g}"] = [image_of(row["images"][way][place], shape) for row in rows]
        return lines


def main() -> None:
    """Measure, unless it is there already."""
    with plain_messages():
        ReconstructionCLI().run()


if __name__ == "__main__":
    main()
