"""An experiment file: the stages that make a table of a paper, and the table. Read by :func:`load_experiment`.

``configs/experiment/<paper>/<table>.yaml``; a value may hold ``{name}``, which the chosen scale fills in.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from zeroth.records import Case

Job = Literal["train", "tune", "attack", "certify", "study"]
Scale = Literal["digits", "mnist", "paper"]
Column = Literal[
    "success_rate", "queries_to_success", "queries", "l1", "l2", "linf", "median_at", "mean_at", "success_at"
]
# Figures of an optimizer, means over the images, that can be divided by those of another.
Figure = Literal["final loss", "area under the loss", "iterations to success", "queries to success"]
# The train stage whose best checkpoint it is, or one that no stage trains, by class_path and init_args.
Network = str | dict[str, Any]
PictureKind = Literal[
    "success",
    "certified",
    "success_vs",
    "queries_vs",
    "lines",
    "transfer",
    "strip",
    "study",
    "reconstructions",
    "losses",
    "figures",
    "maps",
    "iterates",
    "distortion",
    "within",
]
# What a picture of losses may be over.
LossAxis = Literal["iterations", "queries"]
# The columns of a table of attacks that does not choose.
COLUMNS: tuple[Column, ...] = ("success_rate", "queries_to_success", "queries")


@dataclass(frozen=True)
class Stage:
    """One run of one of the project's programs.

    Args:
        job: which program: train.py, tune.py, attack.py, certify.py, or a module of ``experiments/studies``.
        options: option of that program -> value, e.g. ``{"attack.accept": "all", "images.count": 500}``. The
            run's name and place, ``--checkpoint`` and shards are not among them.
        victim: the train stage whose best checkpoint is the victim. Every job but "train" has one, unless its options
            name a victim that no stage trains, and its images, e.g. ``{"victim": "inception_v3", "victim.weights":
            "DEFAULT", "data": "configs/data/imagenet_299.yaml"}``, or it is the study "synthetic", of other problems.
        tuned: the tune stage whose tuned file is the attack's; job "attack" only, in place of the option ``attack``.
        study: module of ``experiments/studies``; job "study" only.
        models: option that takes a network -> the train stage whose best checkpoint it is, or a list of them for an
            option that takes a list, e.g. ``{"attack.surrogates": ["substitute"]}``. In place of a stage,
            ``{"class_path": "TorchvisionClassifier", "init_args": {"name": "inception_v3", "weights": "DEFAULT"}}`` is
            a network that no stage trains; planning builds and downloads none.
    """

    job: Job
    options: dict[str, Any] = field(default_factory=dict)
    victim: str | None = None
    tuned: str | None = None
    study: str | None = None
    models: dict[str, Network | list[Network]] = field(default_factory=dict)

    @property
    def built_on(self) -> list[str]:
        """Train stages of :attr:`models`, each once."""
        lists = [value if isinstance(value, list) else [value] for value in self.models.values()]
        return list(dict.fromkeys(network for one in lists for network in one if isinstance(network, str)))

    @property
    def named_victim(self) -> list[str]:
        """Options that name a victim which no stage trains; what its scores are can be told of any victim."""
        return [key for key in self.options if key.partition(".")[0] == "victim" and key != "victim.output"]


@dataclass(frozen=True)
class Ratio:
    """A comparison of a row with a baseline on the same images.

    Args:
        row: method of the baseline's row.
        of: of attacks the distance whose means are divided, over the images that both won; "median_at" divides the
            medians at the last of the experiment's marks, over the images that both attacked. Of studies of optimizers
            the figure that is divided, over the images that both measured.
    """

    row: str
    of: Literal["l1", "l2", "linf", "median_at"] | Figure


@dataclass(frozen=True)
class Row:
    """One line of the table: a cell file of its own.

    Args:
        method: what the line is called.
        stage: the attack, certify or study stage that it reports.
        reported: figures of the paper, None or left out where it has none. Attacks: ``success_rate`` (a fraction),
            ``queries_to_success``, ``l1``, ``l2``, ``linf`` (means over the images won, [0, 1] pixels), and at numbers
            of queries ``median_at``, ``mean_at`` and ``success_at`` (number as text -> distance or fraction).
            Certificates: ``certified_accuracy`` (radius as text -> fraction), ``acr``. Studies: what the names of
            lines begin with, e.g. ``RMSE`` (mark of the x axis as text -> number).
        source: where the paper reports them, e.g. "Table 1"; of which victim, where it is another.
        note: what a reader must know to compare.
        case: which of an image's targets count, in a stage with ``targeted: all``: the easiest ("best"), one drawn at
            random ("average") or the hardest ("worst"); None for every pair of image and target.
        ratio_to: a baseline that the row's distance, or its figure of a study, is divided by; the paper's ratio is that
            of the reported distances.
        scales: the scales at which the row is there; empty means all.
    """

    method: str
    stage: str
    reported: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    note: str | None = None
    case: Case | None = None
    ratio_to: Ratio | None = None
    scales: list[Scale] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Stem of the row's cell file: the stage, and the case where it has one."""
        return self.stage if self.case is None else f"{self.stage}-{self.case}"


@dataclass(frozen=True)
class Picture:
    """One figure drawn from the rows.

    Args:
        kind: "success" (share of images against queries), "certified" (accuracy against radius), "success_vs" and
            "queries_vs" (a figure of each row against a setting), "lines" (success rate and distances against a
            setting), "transfer" (heat map of success: what was crafted against which victim), "strip" (originals and
            adversarial images of the rows side by side), "study" (what a study stage measured), "reconstructions" (true
            images, and what the rows make of the attacked ones), "losses" (of optimizers on attacks), "figures" (all
            figures of a study against a setting), "maps" (images, and what optimizers add and where they ask),
            "iterates" (an image as optimizers change it),
            "distortion" (median distance with quartiles against queries),
            "within" (share of images within a distance against queries).
        rows: methods of the rows that are drawn; empty means all.
        over: for "success_vs", "queries_vs", "lines" and "figures", the setting on the x axis, a dotted key such as
            "attack.mu", whose value is a number, or a size (h, w), which stands at h w; for "losses", "iterations" or
            "queries".
        title: the caption in the generated page.
        images: for "strip", how many of the first images are shown; for "losses", of how many of them the own curves
            are, at most four, in place of the mean over all.
        threshold: for "within", the distance, in the norm of the attacks.
    """

    kind: PictureKind
    rows: list[str] = field(default_factory=list)
    over: str | None = None
    title: str = ""
    images: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Experiment:
    """A table of a paper.

    Args:
        title: headline of the generated page.
        paper: authors, venue, year.
        dataset: dataset of each scale as the cells name it, e.g. ``{"mnist": "MNIST", "digits": "digits"}``.
        scales: scale -> variables that ``{name}`` in options, methods and notes stand for; the scales that there are.
        stages: name -> stage, in an order in which each follows what it needs.
        kind: what the table is of; "study" has no table but pictures.
        rows: lines of the table.
        pictures: file stem -> figure.
        radii: radii of a certificate table, l_2 in [0, 1] pixels.
        defaults: job -> options that all stages of the job share; a stage's own win.
        text: a paragraph for the generated page: what is shown, and what differs from the paper.
        rate: images a second that the victim answers on 2 CPU cores, scale -> rate; for the estimates of --dry-run.
        columns: what a table of attacks shows, in this order; "median_at", "mean_at" and "success_at" at each mark.
        marks: numbers of queries at which those three are shown, ascending; each of one significant digit, or the
            budget.
        threshold: a distance in the norm of the attacks; "success_at" is the share of the attacked images within it.
    """

    title: str
    paper: str
    dataset: dict[str, str]
    scales: dict[str, dict[str, Any]]
    stages: dict[str, Stage]
    kind: Literal["attack", "certificate", "study"]
    rows: list[Row]
    pictures: dict[str, Picture] = field(default_factory=dict)
    radii: list[float] = field(default_factory=list)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    text: str = ""
    rate: dict[str, float] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=lambda: list(COLUMNS))
    marks: list[int] = field(default_factory=list)
    threshold: float | None = None
