"""Meta-training on quadratics: what a step trains on, what it costs, what it does when killed or when a problem breaks.

Shapes: n slots, T iterations of a window, d coordinates.
"""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules import Digits
from datamodules.optimizees import AttackOptimizees, QuadraticOptimizees
from lightning_modules import OptimizerTraining
from lightning_modules.learned_optimizer import EVALUATION
from tests.runs import digits_checkpoint
from tests.victims import Moody
from zeroth.estimators import CGE, LearnedSampling
from zeroth.meta import PES, TBPTT, TruncatedES
from zeroth.networks import CheckpointClassifier, QueryRNN, UpdateRNN
from zeroth.optimizers import ZOSGD, ZOSZVRG, LearnedOptimizer
from zeroth.oracles.streams import derived_seed
from zeroth.problems import minimize

D, Q, HORIZON, WINDOW, SLOTS, WINDOWS, VAL = 4, 3, 8, 2, 5, 3, 2


def system(query=False, **options):
    torch.manual_seed(0)
    rule = LearnedOptimizer(
        update=UpdateRNN(hidden=3),
        query=QueryRNN(hidden=3) if query else None,
        estimator=LearnedSampling(q=Q, mu=1e-2),
    )
    return OptimizerTraining(rule, **{"horizon": HORIZON, "window": WINDOW, "slots": SLOTS, **options})


def data(kind=QuadraticOptimizees, **options):
    return kind(**{"dimension": D, "train": 7, "val": VAL, "test": 2, "windows": WINDOWS, **options})


def trainer(epochs, *callbacks, **options):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        gradient_clip_algorithm="value",
        **options,
    )


class Ages(pl.Callback):
    """Notes what is in play after each step."""

    def __init__(self):
        self.ages, self.numbers, self.rows = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        held = pl_module._trajectories
        self.ages.append(held.ages.tolist())
        self.numbers.append(held.numbers.tolist())
        self.rows.append(held.rows.tolist())


def test_slots_begin_at_different_steps_and_take_a_problem_each():
    ages, module = Ages(), system()
    fit = trainer(4)
    fit.callbacks.append(ages)
    fit.fit(module, datamodule=data())
    seen = torch.tensor(ages.ages)  # (steps, n), the ages at which the next step begins
    assert len(seen) == 12 and set(seen.flatten().tolist()) == {0, 2, 4, 6}
    # Slot s ends its first trajectory after 4 - floor(4 s / 5) windows, then each after 4.
    for slot in range(SLOTS):
        starts = (seen[:, slot] == 0).nonzero()[:, 0] + 1
        first = 4 - 4 * slot // 5
        assert starts.tolist() == list(range(first, 13, 4))
    # Once the slots are apart, a step sees all ages.
    assert all(set(line) == {0, 2, 4, 6} for line in seen.tolist()[2:])
    numbers = torch.tensor(ages.numbers)
    assert (numbers % SLOTS == torch.arange(SLOTS)).all() and (numbers.diff(dim=0) >= 0).all()
    # Slots of one round have different problems.
    by_number = dict(zip(numbers.flatten().tolist(), torch.tensor(ages.rows).flatten().tolist(), strict=True))
    assert len({by_number[number] for number in range(SLOTS, 2 * SLOTS)}) == SLOTS


@pytest.mark.parametrize(
    ("method", "each"),
    [
        (None, Q + 1 + 1),
        (TBPTT(estimator=CGE(mu=0.1, scheme="central")), Q + 1 + 2 * D),
        (PES(pairs=2), 2 * (Q + 1 + 1)),
        (TruncatedES(pairs=2), 2 * (Q + 1 + 1) + Q + 1),
    ],
    ids=["true", "cge", "pes", "es"],
)
def test_every_query_is_counted_and_no_other_is_asked(method, each):
    module = system(meta_gradient=method)
    before = [parameter.clone() for parameter in module.rule.parameters()]
    fit = trainer(2)
    fit.fit(module, datamodule=data())
    validation = VAL * (HORIZON * (Q + 1) + 1)
    assert module.queries == 2 * (WINDOWS * SLOTS * WINDOW * each + validation)
    assert int(fit.callback_metrics["queries"]) == module.queries and fit.callback_metrics["dropped"] == 0
    assert all((a - b).abs().max() > 0 for a, b in zip(module.rule.parameters(), before, strict=True))


def state_of(module):
    held = module._trajectories
    tensors = [*module.rule.state_dict().values(), held.numbers, held.rows, held.ages, held.memory]
    for theta, state in held.copies:
        tensors += [theta, *state.values()]
    return tensors


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ({}, {"every_n_epochs": 1}),
        ({}, {"every_n_train_steps": 4}),
        ({"meta_gradient": PES(pairs=2)}, {"every_n_epochs": 1}),
        ({"query": True, "trained": "query"}, {"every_n_train_steps": 4}),
    ],
    ids=["end of an epoch", "within an epoch", "pes", "query, within an epoch"],
)
@pytest.mark.filterwarnings(
    "ignore:.*resuming from a checkpoint that ended before.*", "ignore:Be aware that when using"
)
def test_a_resumed_training_takes_the_same_steps(options, every, tmp_path):
    """To the bit, in the middle of trajectories, from a checkpoint at the end or in the middle of an epoch."""
    whole, resumed, ages = system(**options), system(**options), Ages()
    keeper = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **every)
    trainer(3, keeper).fit(whole, datamodule=data())
    taken = every.get("every_n_train_steps", 3)
    fit = trainer(3)
    fit.callbacks.append(ages)
    fit.fit(resumed, datamodule=data(), ckpt_path=tmp_path / f"step={taken}.ckpt", weights_only=True)
    assert len(ages.ages) == 9 - taken and len({*ages.ages[0]}) > 1
    first, second = state_of(whole), state_of(resumed)
    assert len(first) == len(second) > 8
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert whole.queries == resumed.queries


class Broken(QuadraticOptimizees):
    """Training problem 2 has no value, validation problem 8 neither."""

    def problems(self, split, device="cpu"):
        made = super().problems(split, device)
        made.target[[index in (2, 8) for index in made.indices.tolist()]] = torch.nan
        return made


@pytest.mark.parametrize("method", [None, TBPTT(estimator=CGE(mu=0.1)), PES(pairs=2)], ids=["true", "cge", "pes"])
def test_a_problem_that_is_not_finite_is_dropped_named_and_counted(method):
    module = system(meta_gradient=method, horizon=4)
    fit = trainer(3)
    with pytest.warns(
        UserWarning, match=r"(dropped 1 trajectories that are not finite: problems \[2\])|(left val)"
    ) as told:
        fit.fit(module, datamodule=data(Broken))
    assert any("left val problems [8] out" in str(warning.message) for warning in told)
    times = sum("dropped 1" in str(warning.message) for warning in told)
    assert times >= 1 and dict(module.dropped) == {2: times} and int(fit.callback_metrics["dropped"]) == times
    assert all(parameter.isfinite().all() for parameter in module.rule.parameters())
    assert fit.callback_metrics["val_loss"].isfinite()
    assert 2 not in module._trajectories.rows[module._trajectories.ages > 0]


def test_an_attack_whose_victim_cannot_be_read_is_dropped_too():
    """The victim answers NaN around one training image: that trajectory ends, and the others go on."""
    victim = CheckpointClassifier(str(digits_checkpoint()))
    image, index = (getattr(attacks(victim).problems("train"), name)[1] for name in ("images", "indices"))
    module, fit = system(horizon=4, slots=3), trainer(2)
    with pytest.warns(UserWarning, match=rf"dropped 1 .* problems \[{index}\] after \[0\] to 2 more iterations"):
        fit.fit(module, datamodule=attacks(Moody(victim, image)))
    assert set(module.dropped) == {int(index)} and fit.callback_metrics["val_loss"].isfinite()
    assert all(parameter.isfinite().all() for parameter in module.rule.parameters())


def attacks(victim):
    return AttackOptimizees(Digits(), victim, train=3, val=1, test=1, windows=2)


def test_a_window_with_a_broken_problem_is_that_of_the_others():
    """The first step's weights are those of a training that never had the problem's slot."""
    whole, broken = (system(horizon=WINDOW, slots=7) for _ in range(2))
    for module, kind in ((whole, QuadraticOptimizees), (broken, Broken)):
        module.trainer = trainer(1)
        module.trainer.datamodule = data(kind)
        module.setup("fit")
        module.on_fit_start()
    place = whole._trajectories.rows.tolist().index(2)
    with pytest.warns(UserWarning, match=r"problems \[2\] after \[0\] to 2 more iterations"):
        outcome, taken, _ = broken._take_window(broken._trajectories)
    expected = whole.meta_gradient(whole._task, whole._trajectories)
    rest = [n for n in range(7) if n != place]
    assert taken.slots.tolist() == rest and torch.equal(outcome.losses, expected.losses[rest])
    assert outcome.loss.item() == pytest.approx(expected.losses[rest].mean().item())


def test_a_single_slot_goes_on_with_the_next_problem():
    module = system(horizon=4, slots=1)
    with pytest.warns(UserWarning, match=r"dropped 1 trajectories that are not finite: problems \[2\]"):
        trainer(5).fit(module, datamodule=data(Broken))
    assert set(module.dropped) == {2} and all(parameter.isfinite().all() for parameter in module.rule.parameters())
    # Seven problems a round of two windows each, of which one is left at once: over 15 windows it comes up twice.
    assert module.dropped[2] in (1, 2) and module._trajectories.numbers.item() == 7 + module.dropped[2]


def test_trajectories_of_one_problem_start_apart():
    module = system(horizon=WINDOW, slots=1)
    module.trainer = trainer(1)
    module.trainer.datamodule = data(train=2)
    module.setup("fit")
    rounds = [module._begin(torch.tensor([0]), torch.tensor([number])) for number in range(4)]
    points = torch.cat([held.copies[0][0] for held in rounds])
    assert len(points.unique(dim=0)) == 4


def test_without_any_finite_trajectory_training_ends():
    class Ruined(QuadraticOptimizees):
        def problems(self, split, device="cpu"):
            made = super().problems(split, device)
            made.target += torch.nan
            return made

    with pytest.raises(FloatingPointError, match="no trajectory of the window is finite"):
        trainer(1, num_sanity_val_steps=0).fit(system(), datamodule=data(Ruined))


def test_a_query_rnn_is_trained_beside_a_frozen_update_rnn_and_also_without_one():
    module = system(query=True, trained="query")
    before = {name: held.clone() for name, held in module.rule.state_dict().items()}
    trainer(1).fit(module, datamodule=data())
    changed = {name for name, held in module.rule.state_dict().items() if not torch.equal(held, before[name])}
    assert changed == {name for name in before if name.startswith("query")} and len(changed) == 3
    torch.manual_seed(0)
    sampling = LearnedSampling(q=Q, mu=1e-2)
    rule = ZOSGD(delta=0.1, query=QueryRNN(hidden=3), estimator=sampling)
    trainer(1).fit(OptimizerTraining(rule, trained="query", horizon=4, window=2, slots=2), datamodule=data())
    rule = ZOSZVRG(delta=0.1, query=QueryRNN(hidden=3), estimator=sampling, snapshot=sampling)
    with pytest.raises(ValueError, match="slots must be 1 with ZOSZVRG, whose epochs want one age, got 2"):
        OptimizerTraining(rule, trained="query", horizon=4, window=2, slots=2)
    trainer(1).fit(OptimizerTraining(rule, trained="query", horizon=4, window=2, slots=1), datamodule=data())


def test_the_best_weights_are_those_of_the_least_objective():
    """Eq. 4 on the validation problems: the loss after iteration t with weight t."""
    module = system(horizon=4)
    told = trainer(1, inference_mode=False).validate(module, datamodule=data(), verbose=False)[0]
    seed = derived_seed(0, EVALUATION)
    losses = minimize(module.rule.eval(), data().problems("val"), torch.arange(VAL), iterations=4, seed=seed).losses
    expected = sum(t * float(losses[:, t].mean()) for t in range(1, 5)) / (1 + 2 + 3 + 4)
    assert told[module.monitor] == pytest.approx(expected) and module.monitor_mode == "min"
    assert told["val_loss"] == pytest.approx(float(losses[:, 4].mean())) != told[module.monitor]


def test_training_makes_an_optimizer_better():
    module = system(horizon=20, window=10, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    first = trainer(1, inference_mode=False).validate(module, datamodule=data(), verbose=False)[0]["val_loss"]
    trainer(1, inference_mode=False).fit(module, datamodule=data(windows=40))
    after = trainer(1, inference_mode=False).validate(module, datamodule=data(), verbose=False)[0]["val_loss"]
    assert after < 0.6 * first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 7}, "horizon must be a multiple of window=2, got 7"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"penalty": -1.0}, "penalty must be 0 or more, got -1.0"),
        ({"trained": "both"}, "trained must be one of update, query, got 'both'"),
        ({"trained": "query"}, "trained='query', but this LearnedOptimizer has no such network"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        system(**options)


@pytest.mark.filterwarnings("ignore:Be aware that when using")
def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data must be problems of an optimizer, such as AttackOptimizees, got Digits"):
        trainer(1).fit(system(), datamodule=Digits())
    trainer(1, keeper := ModelCheckpoint(tmp_path)).fit(system(), datamodule=data())
    with pytest.raises(ValueError, match="the checkpoint has 5 trajectories in 1 copies, and slots=6 on 1 devices"):
        trainer(2).fit(system(slots=6), datamodule=data(), ckpt_path=keeper.best_model_path, weights_only=True)
