"""Training on two ranks (gloo) against one rank's gradient on the joint batch."""

import torch
import torch.nn.functional as F

from datamodules import Digits
from tests.ddp_step import network
from tests.runs import start


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
