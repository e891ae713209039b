"""Training on two ranks (gloo): one rank's steps on what both have, and queries counted over both."""

import torch
import torch.nn.functional as F

from datamodules import Digits
from datamodules.optimizees import QuadraticOptimizees
from tests import ddp_defense, ddp_optimizer
from tests.ddp_step import network
from tests.runs import Counted, asked
from tests.starts import start


def test_two_ranks_have_the_gradient_of_one_on_the_joint_batch(tmp_path):
    done = start("tests/ddp_step.py", tmp_path)
    assert done.returncode == 0, done.stderr
    indices = [torch.load(tmp_path / f"index{rank}.pt") for rank in (0, 1)]
    assert [len(i) for i in indices] == [16, 16] and not set(indices[0].tolist()) & set(indices[1].tolist())
    data = Digits(batch_size=16)
    data.prepare_data()
    data.setup("fit")
    items = {int(item["index"]): item for item in (data.dataset("train")[i] for i in range(len(data.dataset("train"))))}
    joint = [items[index] for index in torch.cat(indices).tolist()]
    net = network()
    images, labels = torch.stack([i["image"] for i in joint]), torch.tensor([int(i["label"]) for i in joint])
    F.cross_entropy(net(images), labels).backward()
    for rank in (0, 1):
        gradients = torch.load(tmp_path / f"gradients{rank}.pt")
        for name, parameter in net.named_parameters():
            assert torch.allclose(gradients[name], parameter.grad, atol=1e-6), name
        assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3


def test_a_defense_on_two_ranks_counts_and_bounds_the_queries_of_both(tmp_path):
    """Each label is asked once; then both ranks ask alike, and an epoch that the budget cannot pay for is not begun."""
    done = start("tests/ddp_defense.py", tmp_path)
    assert done.returncode == 0, done.stderr
    images, epoch = ddp_defense.IMAGES, ddp_defense.EPOCH
    first = (tmp_path / "poor.txt").read_text()
    assert f"does not suffice for {images} training images and one epoch, which come to {images + epoch}:" in first
    assert asked(tmp_path / "poor.log") == 0
    for name, epochs, each in (("zo", 2, epoch), ("fo", 3, 24 + 32)):
        both = [torch.load(tmp_path / f"{name}{rank}.pt", weights_only=False) for rank in (0, 1)]
        for told in both:
            assert told["before"] == images and told["epochs"] == epochs
            assert told["asked"] == told["queries"] == told["logged"] == images + epochs * each
        assert all(torch.equal(value, both[1]["state"][key]) for key, value in both[0]["state"].items())
        # As many answers as images, each in the row of its own.
        items = both[0]["items"]
        labels = Counted(log=str(tmp_path / "other.log"))(torch.stack([item["image"] for item in items])).argmax(1)
        for told in both:
            assert torch.equal(told["targets"][[int(item["index"]) for item in items]], labels)


def test_an_optimizer_on_two_ranks_takes_the_steps_of_one_and_goes_on_after_a_kill(tmp_path):
    """Both have half of the slots; what is dropped is counted once, and no more often after another start."""
    done = start("tests/ddp_optimizer.py", tmp_path)
    assert done.returncode == 0, done.stderr
    one, logged = ddp_optimizer.fit(QuadraticOptimizees, ddp_optimizer.SLOTS, 4, None)
    told = {
        (kind, name, rank): torch.load(tmp_path / f"{kind}-{name}{rank}.pt", weights_only=False)
        for kind in ("QuadraticOptimizees", "Broken")
        for name in ("whole", "again")
        for rank in (0, 1)
    }
    for (kind, name, rank), held in told.items():
        whole = told[kind, "whole", rank]
        assert held["logged"] == whole["logged"] == told[kind, "whole", 0]["logged"]
        assert all(torch.equal(value, whole["state"][key]) for key, value in held["state"].items())
        if kind == "Broken":
            assert held["logged"]["dropped"] > 1
            continue
        assert held["logged"] == logged, name
        for key, value in one.rule.state_dict().items():
            assert torch.allclose(held["state"][key], value, atol=1e-6), key
        own = slice(rank * 3, rank * 3 + 3)
        assert held["held"]["rows"].tolist() == one._trajectories.rows[own].tolist()
        assert torch.allclose(held["held"]["copies"][0][0], one._trajectories.copies[0][0][own], atol=1e-5)
