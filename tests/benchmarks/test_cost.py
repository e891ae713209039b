"""The benchmarks measure what they say: every image spends its budget, queries are those that the victim saw."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import zeroth.attacks
from benchmarks.attack import ATTACKS, OUT_OF_REACH, attack_job
from benchmarks.certification import certification_job
from benchmarks.defense import CASES as DEFENSES
from benchmarks.defense import measure_step
from benchmarks.harness import MIB, Cost, TimedVictim, floor_rate, measure, peak, reset_peak, sweep
from benchmarks.label_attack import LABEL_ATTACKS, LEAST, Balanced, TimedSVMOPT, label_job
from benchmarks.learned_optimizer import ASKED, optimizer_job
from benchmarks.memory import CASES, measure_apart
from zeroth.attacks.label import svm_opt
from zeroth.attacks.score.zo_ngd import ZONGD
from zeroth.estimators import CGE, RGE

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")


class Slow(nn.Module):
    """Takes a time for each batch and none for each image, so that the largest batch is the best."""

    def __init__(self, seconds):
        super().__init__()
        self.linear, self.wait, self.calls = nn.Linear(64, 10), seconds, 0

    def forward(self, images):
        self.calls += 1
        time.sleep(self.wait)
        return self.linear(images.flatten(1))


def test_every_attacked_image_spends_its_whole_budget():
    victim = TimedVictim(Slow(0.0))
    attack = ZONGD(samples=20, kappa=OUT_OF_REACH)
    attack_job(attack, victim, SHAPE)(5, 5 * 300)
    assert victim.images == 5 * 300
    victim.reset()
    attack_job(attack, victim, SHAPE)(5, 1)  # too few are raised to five iterations of 21
    assert victim.images == 5 * 105


@pytest.mark.parametrize(("queries", "asked"), [(900, 300), (3, 120)])
def test_every_certified_image_is_asked_as_often(queries, asked):
    victim = TimedVictim(Slow(0.0))
    certification_job(victim, SHAPE)(3, queries)
    assert victim.images == 3 * asked


def test_time_inside_and_outside_the_victim_is_told_apart():
    victim = TimedVictim(Slow(0.01))

    def job(images, queries):
        for _ in range(10):
            victim(torch.rand(images, *SHAPE))
        time.sleep(0.1)

    cost = measure(job, victim, 4, 40, floor=100.0)
    assert (cost.images, cost.queries, cost.floor) == (4, 40, 100.0)
    assert 0.1 <= cost.inside <= cost.seconds - 0.1
    assert cost.outside == pytest.approx((cost.seconds - cost.inside) / cost.seconds)
    assert cost.ratio == pytest.approx(40 / cost.seconds / 100)


def test_the_floor_is_that_of_the_best_batch():
    # So long a wait that what else the machine does is little beside it: twice the batch is never twice the time.
    rate, batch = floor_rate(Slow(0.05), SHAPE, seconds=0.1)
    assert batch == 1024
    assert 1024 / 0.5 < rate < 1024 / 0.05


def test_a_sweep_counts_the_better_floor_and_not_the_warm_up(monkeypatch):
    floors = iter([(1000.0, 16), (3000.0, 16), (2000.0, 16), (500.0, 16)])
    monkeypatch.setattr("benchmarks.harness.floor_rate", lambda network, shape: next(floors))
    victim = TimedVictim(Slow(0.0))
    asked = []

    def job(images, queries):
        asked.append(queries)
        victim(torch.rand(images, *SHAPE))

    costs = sweep([(job, images) for images in (2, 3, 4)], victim, SHAPE, seconds=2.0)
    assert [(cost.queries, cost.floor) for cost in costs] == [(2, 3000.0), (3, 3000.0), (4, 2000.0)]
    assert asked[1:] == [2000, 6000, 4000]  # about two seconds at the floor before each


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores):
        return scores

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.03)
        return gradient


class Backward(Slow):
    """Takes a time for each backward too."""

    def forward(self, images):
        return SlowBackward.apply(super().forward(images))


def test_a_backward_is_inside_the_victim_and_in_the_floor(monkeypatch):
    monkeypatch.setattr("benchmarks.harness.BATCHES", {"cpu": (8,)})
    victim = TimedVictim(Backward(0.01))
    forward, _ = floor_rate(victim.network, SHAPE, seconds=0.02)
    backward, _ = floor_rate(victim.network, SHAPE, seconds=0.02, gradient=True)
    assert forward == pytest.approx(8 / 0.01, rel=0.4) and backward == pytest.approx(8 / 0.04, rel=0.4)
    floors = iter([(800.0, 8), (200.0, 8)] * 2)
    monkeypatch.setattr("benchmarks.harness.floor_rate", lambda network, shape, gradient=False: next(floors))

    def job(images, queries):
        with torch.no_grad():
            victim(torch.rand(images, *SHAPE))
        batch = torch.rand(images, *SHAPE, requires_grad=True)
        torch.autograd.grad(victim(batch).sum(), batch)

    (cost,) = sweep([(job, 8)], victim, SHAPE, seconds=0.1, gradient=True)
    assert (cost.queries, cost.differentiated) == (16, 8) and cost.floor == pytest.approx(16 / (0.01 + 0.04))
    assert 0.05 <= cost.inside <= cost.seconds


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_attacks_of_the_benchmark_go_on_to_the_end_of_their_budget(kind):
    victim = TimedVictim(Slow(0.0))
    attack = kind(kappa=OUT_OF_REACH)
    attack_job(attack, victim, SHAPE)(2, 2 * 120)
    # FGM's grid ends it; Bandits asks three points a step, and no part of a step.
    budget = max(120, 5 * (attack.request + 1))
    assert victim.images == 2 * {"FGM": 41, "Bandits": 118}.get(kind.__name__, budget)


@pytest.mark.parametrize("name", LABEL_ATTACKS)
def test_attacks_on_labels_go_on_to_the_end_of_their_budget(name):
    torch.manual_seed(0)
    victim = TimedVictim(Balanced(Slow(0.0), SHAPE))
    attack = getattr(zeroth.attacks, name)()
    label_job(attack, victim, SHAPE)(2, 2)
    budget = 2 * max(LEAST, 5 * (attack.request + 1))
    # RayS ends where no block of pixels is left to try.
    assert victim.images == budget or (name == "RayS" and budget / 2 < victim.images < budget)


def test_the_programmes_of_svm_opt_have_a_clock_of_their_own(monkeypatch):
    torch.manual_seed(0)
    victim, attack = TimedVictim(Balanced(Slow(0.0), SHAPE)), TimedSVMOPT(q=5)
    solved = []
    monkeypatch.setattr(svm_opt, "support", lambda vectors: time.sleep(0.01) or solved.append(vectors.shape[1]))
    for _ in range(2):
        solved.clear()
        label_job(attack, victim, SHAPE)(1, 1)
        assert solved and 0.01 * len(solved) <= attack.seconds <= 0.03 * len(solved) + 1  # of the last job alone


def test_a_cuda_toolkit_without_a_gpu_is_no_matter_for_a_warning(tmp_path):
    script = "import benchmarks.harness, logging; print(logging.getLogger('torch.utils.cpp_extension').disabled)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")  # the logger works again afterwards


def test_rates():
    cost = Cost(images=2, queries=600, seconds=3.0, inside=2.4, floor=250.0, memory=0)
    assert (cost.rate, cost.ratio, cost.outside) == (200.0, 0.8, pytest.approx(0.2))


def test_the_peak_is_seen_after_what_made_it_is_gone():
    held = reset_peak(CPU)
    block = torch.ones(64 * MIB)  # 256 MiB in float32
    del block
    assert 250 * MIB < peak(CPU) - held < 400 * MIB


@pytest.mark.parametrize(
    "case", [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])], ids=str
)
def test_an_attack_stays_within_2_gib_above_its_victim(case):
    forward, attack = measure_apart(case, "cpu")
    held = case.images * case.shape[0] * case.shape[1] * case.shape[2] * 4
    assert attack - forward < 2048 * MIB
    assert attack > held  # it holds its images at the least
    if case.attack == "ZONGD":
        assert attack < held * (case.queries - 2)  # all points at once would not have fitted


@pytest.mark.parametrize(("estimator", "each"), [(RGE(q=5, mu=0.005), 6), (CGE(mu=0.005), 17)], ids=["RGE", "CGE"])
def test_a_step_of_a_defense_asks_what_its_estimator_says(estimator, each, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.BATCHES", {"cpu": (64,)})  # which is best is no matter here
    cost = measure_step(DEFENSES[0], estimator, CPU, 2)
    assert cost.queries == 64 * each and cost.images == 64
    assert cost.floor > 0 and cost.seconds > 0


@pytest.mark.parametrize("job", ASKED)
def test_a_learned_optimizer_asks_what_its_rows_are_divided_by(job):
    victim = TimedVictim(Slow(0.0))
    optimizer_job(job, victim, SHAPE)(3, 3 * 40 * ASKED[job])
    if job == "evaluation":  # and the loss at the last point
        assert (victim.images, victim.differentiated) == (3 * (40 * 21 + 1), 0)
    else:  # two windows, a gradient at each of their 20 points
        assert (victim.images, victim.differentiated) == (2 * 20 * 3 * 22, 2 * 20 * 3)
