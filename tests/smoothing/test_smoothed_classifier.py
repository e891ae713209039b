"""The smoothed classifier: exact counts, invariance of the draws, abstention, faults and bad input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from torch import Tensor, nn

from zeroth.oracles import ImageStreams, Journal, LabelOracle, ScoreOracle, VictimError
from zeroth.smoothing import Certificate, SmoothedClassifier, VoteOracle, count_votes
from zeroth.smoothing.votes import BLOCK, noisy_batches


class Recorder:
    """Four classes by the sum of pixels, so that every vote is told apart; keeps what it is asked, by reference."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        mean = images.double().flatten(1).mean(1)
        return -(mean[:, None] - torch.tensor([0.2, 0.4, 0.6, 0.8])).abs()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 3, 5, generator=torch.Generator().manual_seed(seed))


def votes(images: Tensor, indices: list[int], max_batch: int, phases: tuple[int, ...] = (7, 45)) -> Tensor:
    oracle = VoteOracle(Recorder(), max_batch=max_batch, clamp=False)
    streams = ImageStreams(3, indices)
    return count_votes(oracle, images, sigma=0.5, phases=phases, num_classes=4, streams=streams)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 samples of 15 pixels a block, so that blocks cross batches, phases and images in small tests."""
    monkeypatch.setitem(BLOCK, "cpu", 60)


def slow_votes(images: Tensor, indices: list[int], phases: tuple[int, ...], block: int) -> Tensor:
    """One image and one label at a time."""
    counts = torch.zeros(len(images), len(phases), 4, dtype=torch.int64)
    for row, index in enumerate(indices):
        stream, left, noise = ImageStreams(3, [index]).generator(0), sum(phases), []
        while left:
            noise.append(0.5 * torch.empty(min(block, left), *images.shape[1:]).normal_(generator=stream))
            left -= len(noise[-1])
        labels = Recorder()(images[row] + torch.cat(noise)).argmax(1).tolist()
        for sample, label in enumerate(labels):
            counts[row, next(p for p in range(len(phases)) if sample < sum(phases[: p + 1])), label] += 1
    return counts


@pytest.mark.parametrize("max_batch", [1, 3, 4, 50, 128, 10_000])
def test_counts_equal_a_loop_over_single_images(small_blocks: None, max_batch: int) -> None:
    images, indices = pictures(5), [11, 4, 70_000, 0, 8]
    expected = slow_votes(images, indices, (7, 45), block=4)
    assert (expected > 0).sum() > 20  # every class gets votes
    assert torch.equal(votes(images, indices, max_batch), expected)


PHASES = st.tuples(st.integers(1, 20), st.integers(1, 70))


@given(st.integers(1, 60), st.integers(1, 4), st.permutations(list(range(5))), PHASES)
@settings(max_examples=25, deadline=None)
def test_no_count_depends_on_the_batch(max_batch: int, cut: int, order: list[int], phases: tuple[int, int]) -> None:
    images, indices = pictures(5), torch.tensor([11, 4, 70_000, 0, 8])
    whole = votes(images, indices.tolist(), 128, phases)
    parts = torch.tensor(order).split(cut)
    joined = torch.cat([votes(images[part], indices[part].tolist(), max_batch, phases) for part in parts])
    assert torch.equal(joined, whole[order])


def test_noise_is_standard_normal_fresh_and_not_clipped() -> None:
    images = torch.stack([torch.zeros(1, 3, 5), torch.ones(1, 3, 5)])
    batches = list(noisy_batches(images, 0.25, 4000, ImageStreams(0, [0, 1]), 128))
    assert [len(b) for b in batches] == [128] * 62 + [64]
    noise = (torch.cat(batches).reshape(2, 4000, 15) - images.reshape(2, 1, 15)) / 0.25
    assert kstest(noise.flatten().double(), norm.cdf).pvalue > 1e-3
    assert len(torch.unique(noise[..., 0])) > 7990  # no draw is used twice, neither within an image nor across
    assert float(torch.cat(batches).min()) < -0.5 and float(torch.cat(batches).max()) > 1.5


def test_certify_asks_exactly_n0_plus_n_in_full_batches() -> None:
    model, steps = Recorder(), []
    smoothed = SmoothedClassifier(model, 4, 0.3, max_batch=100)
    result = smoothed.certify(pictures(6), 10, 121, 0.01, seed=0, progress=lambda *step: steps.append(step))
    assert smoothed.oracle.queries == 6 * 131 == sum(map(len, model.asked))
    assert [len(b) for b in model.asked] == [100] * 7 + [86]
    assert steps == [(min(100 * (i + 1), 786), 786) for i in range(8)]
    assert len(torch.unique(torch.cat(model.asked).flatten(1), dim=0)) == 786
    assert result.samples.tolist() == [131] * 6
    assert result.prediction.dtype == torch.int64 and result.radius.dtype == torch.float64
    assert result.seconds.shape == (6,) and float(result.seconds.min()) > 0


def test_predict_asks_exactly_n() -> None:
    model = Recorder()
    said = SmoothedClassifier(model, 4, 0.3).predict(torch.full((2, 1, 3, 5), 0.4), 500, 0.01, seed=0)
    assert sum(map(len, model.asked)) == 1000 and said.tolist() == [1, 1] and said.dtype == torch.int64


def test_constant_model_reaches_the_largest_radius_and_a_coin_abstains() -> None:
    constant = SmoothedClassifier(lambda x: torch.full((len(x),), 2), 3, 0.25)
    always = constant.certify(pictures(3), 10, 1000, 0.001, seed=0)
    assert always.prediction.tolist() == [2, 2, 2]
    np.testing.assert_allclose(always.radius, 0.25 * norm.ppf(0.001**0.001), rtol=1e-9)
    coin = SmoothedClassifier(lambda x: (x[:, 0, 0, 0] > 0.5).long(), 2, 0.25)
    result = coin.certify(torch.full((8, 1, 3, 5), 0.5), 10, 1000, 0.001, seed=0)
    assert result.prediction.tolist() == [-1] * 8 and result.radius.tolist() == [0.0] * 8
    assert coin.predict(torch.full((8, 1, 3, 5), 0.5), 1000, 0.001, seed=0).tolist() == [-1] * 8


@pytest.mark.parametrize("oracle", [LabelOracle, ScoreOracle])
def test_an_oracle_gives_what_its_model_gives(oracle: type) -> None:
    images = pictures(4)
    direct = SmoothedClassifier(Recorder(), 4, 0.3, max_batch=64).certify(images, 5, 300, 0.01, seed=9)
    handed = oracle(Recorder(), max_batch=64, clamp=False)
    result = SmoothedClassifier(handed, 4, 0.3).certify(images, 5, 300, 0.01, seed=9)
    assert torch.equal(direct.radius, result.radius) and torch.equal(direct.prediction, result.prediction)
    assert float(direct.radius.max()) > 0


def test_seed_and_indices_key_the_draws() -> None:
    images = pictures(3)
    smoothed = SmoothedClassifier(Recorder(), 4, 0.3)

    def radii(seed: int, indices: list[int] | None = None) -> list[float]:
        return smoothed.certify(images, 5, 400, 0.05, seed=seed, indices=indices).radius.tolist()

    assert radii(0) == radii(0) == radii(0, [0, 1, 2])
    assert radii(0) != radii(1)
    assert radii(0) != radii(0, [3, 4, 5])


def test_no_images_ask_nothing() -> None:
    smoothed = SmoothedClassifier(Recorder(), 4, 0.3)
    assert smoothed.certify(torch.empty(0, 1, 3, 5), 1, 1, seed=0).radius.shape == (0,)
    assert smoothed.predict(torch.empty(0, 1, 3, 5), 1, 0.1, seed=0).shape == (0,)
    assert smoothed.oracle.queries == 0


def nan_at(call: int):
    calls = []

    def broken(images: Tensor) -> Tensor:
        calls.append(1)
        scores = Recorder()(images)
        scores[0, 1] = torch.nan if len(calls) == call else scores[0, 1]
        return scores

    return broken


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nan_at(1), "victim broken returned NaN scores for 1 of 128"),
        (nan_at(3), "victim broken returned NaN or infinite scores for 1 of 420 noisy images"),
        (lambda x: torch.full((len(x),), 4), r"outside 0\.\.3 for 128 of 128 noisy images: num_classes=4 must be"),
        (lambda x: torch.full((len(x),), -1), "returned label -1: labels must be class numbers >= 0"),
        (lambda x: torch.eye(7)[6].expand(len(x), 7) * 5, r"outside 0\.\.3 for 128 .* \(it returns 7 scores\)"),
        (lambda x: torch.zeros(3, 4), r"shape \(3, 4\)"),
    ],
)
def test_victim_faults(model, message: str) -> None:
    with pytest.raises(VictimError, match=message):
        SmoothedClassifier(model, 4, 0.3, max_batch=128).certify(pictures(4), 5, 100, 0.05, seed=0)


BAD_CALLS = [
    (dict(n0=0), "n0 must be an integer of at least 1, got 0"),
    (dict(n=0), "n must be an integer of at least 1, got 0"),
    (dict(n=1e3), "n must be an integer of at least 1, got 1000.0"),
    (dict(alpha=0.0), "alpha must lie strictly between 0 and 1 .* got 0.0"),
    (dict(alpha=1.0), "alpha .* got 1.0"),
    (dict(seed=-1), "seed must be >= 0 and below 2.32, got -1"),
    (dict(images=torch.rand(3, 5)), r"images must be float of shape \(B, C, H, W\), .* of shape \(3, 5\)"),
    (dict(images=torch.zeros(2, 1, 3, 5, dtype=torch.uint8)), "images must be float .* got torch.uint8"),
    (dict(images=torch.full((2, 1, 3, 5), 255.0)), r"images must lie in \[0, 1\], got values in \[255, 255\]"),
    (dict(images=torch.full((2, 1, 3, 5), torch.nan)), r"images must lie in \[0, 1\]"),
    (dict(indices=[1]), r"indices must be .* shape \(2,\), got torch.int64 of shape \(1,\)"),
    (dict(indices=[0.0, 1.0]), "indices must be .* got torch.float32"),
    (dict(indices=[0, -4]), "indices must be dataset indices >= 0, got -4"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_bad_call(bad: dict, message: str) -> None:
    model = Recorder()
    smoothed = SmoothedClassifier(model, 4, 0.3)
    call = dict(images=pictures(2), n0=2, n=10, alpha=0.1, seed=0) | bad
    with pytest.raises(ValueError, match=message):
        smoothed.certify(**call)
    if "n0" not in bad:
        call.pop("n0")
        with pytest.raises(ValueError, match=message):
            smoothed.predict(**call)
    assert model.asked == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(sigma=0.0), "sigma must be a positive .* got 0.0"),
        (dict(sigma=-0.25), "sigma .* got -0.25"),
        (dict(sigma=float("inf")), "sigma .* got inf"),
        (dict(num_classes=1), "num_classes must be at least 2, got 1"),
        (dict(max_batch=0), "max_batch must be at least 1 or None, got 0"),
        (dict(output="scores"), "output must be one of .* got 'scores'"),
        (dict(model=nn.Sequential(nn.Flatten(), nn.Dropout())), "training mode"),
        (dict(model=LabelOracle(Recorder(), clamp=False), max_batch=5), "max_batch=5 was given beside an oracle"),
    ],
)
def test_bad_construction(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmoothedClassifier(**(dict(model=Recorder(), num_classes=4, sigma=0.3) | bad))


def test_an_oracle_that_clamps_is_warned_of() -> None:
    recorder = Recorder()
    with pytest.warns(UserWarning, match="clamp=False"):
        smoothed = SmoothedClassifier(LabelOracle(recorder), 4, 0.3)
    smoothed.certify(pictures(2), n0=10, n=20, seed=0)
    asked = torch.cat(recorder.asked)
    assert float(asked.min()) == 0 and float(asked.max()) == 1


def test_a_killed_certification_resumes_from_its_journal(tmp_path: Path) -> None:
    def certify(model: Callable[[Tensor], Tensor]) -> Certificate:
        journal = Journal.open(tmp_path / "j", {"sigma": 0.4})
        try:
            smoothed = SmoothedClassifier(model, 4, 0.4, max_batch=16)
            return smoothed.certify(pictures(3), n0=10, n=50, seed=0, journal=journal)
        finally:
            journal.close()

    class Unplugged(BaseException):
        pass

    def fragile(images: Tensor) -> Tensor:
        if sum(map(len, first.asked)) + len(images) > 100:
            raise Unplugged
        return first(images)

    whole, first, second = Recorder(), Recorder(), Recorder()
    expected = SmoothedClassifier(whole, 4, 0.4, max_batch=16).certify(pictures(3), n0=10, n=50, seed=0)
    with pytest.raises(Unplugged):
        certify(fragile)
    resumed = certify(second)
    assert torch.equal(torch.cat([*first.asked, *second.asked]), torch.cat(whole.asked))
    assert torch.equal(resumed.prediction, expected.prediction) and torch.equal(resumed.radius, expected.radius)


def test_faulty_answers_are_not_kept_in_the_journal(tmp_path: Path) -> None:
    def certify(model: Callable[[Tensor], Tensor]) -> Certificate:
        journal = Journal.open(tmp_path / "j", {})
        try:
            return SmoothedClassifier(model, 4, 0.4, max_batch=16).certify(
                pictures(1), n0=10, n=50, seed=0, journal=journal
            )
        finally:
            journal.close()

    def broken(images: Tensor) -> Tensor:
        recorder(images)
        return recorder(images) * (torch.nan if len(recorder.asked) > 2 else 1)

    recorder = Recorder()
    with pytest.raises(VictimError, match="NaN"):
        certify(broken)
    recorder.asked = []
    assert int(certify(Recorder()).samples) == 60  # mended: asked again
    assert int(certify(recorder).samples) == 60 and not recorder.asked  # all of it is kept, without a gap
