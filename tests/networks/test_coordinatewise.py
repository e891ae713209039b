"""UpdateRNN and QueryRNN against torch's LSTM cell on one row a coordinate, and what their outputs promise."""

import pytest
import torch
from torch import nn

from cli.faults import known_classes
from zeroth.networks import QueryRNN, UpdateRNN


def test_they_have_the_papers_sizes_and_start_small():
    for network, parameters in ((UpdateRNN(), 450), (QueryRNN(), 490)):
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        assert {name.rpartition(".")[2] for name, _ in network.named_parameters()} == {
            "weight_ih",
            "weight_hh",
            "weight",
        }
        assert float(network.output.weight.detach().abs().max()) <= 0.1 / 10**0.5
        assert float(network.cell.weight_hh.detach().abs().max()) > 0.1 / 10**0.5


@pytest.mark.parametrize("hidden", [10, 3])
def test_a_coordinate_is_a_row_of_torchs_cell(hidden):
    batch, dimension = 3, 7
    update, query = UpdateRNN(hidden=hidden), QueryRNN(hidden=hidden)
    memories = {network: network.begin(batch, dimension) for network in (update, query)}
    rows = {network: (torch.zeros(batch * dimension, hidden),) * 2 for network in (update, query)}
    for _ in range(3):
        gradient, delta = torch.randn(2, batch, dimension)
        seen = {update: gradient.reshape(-1, 1), query: torch.stack([gradient, delta], 2).reshape(-1, 2)}
        moved, memories[update] = update(gradient, memories[update])
        sigma, offset, memories[query] = query(gradient, delta, memories[query])
        for network, found in ((update, moved), (query, offset)):
            rows[network] = network.cell(seen[network], rows[network])
            torch.testing.assert_close(found, network.output(rows[network][0]).view(batch, dimension))
            for memory, row in zip(memories[network], rows[network], strict=True):
                torch.testing.assert_close(memory, row.view(batch, dimension, hidden).mT)
        torch.testing.assert_close(
            sigma, (1 + offset) * (dimension / (1 + offset).square().sum(1, keepdim=True)) ** 0.5
        )
        torch.testing.assert_close(sigma.norm(dim=1), torch.full((batch,), dimension**0.5))


@pytest.mark.parametrize("dimension", [8, 49, 64, 784])
def test_a_problem_is_the_same_bits_beside_others(dimension):
    network, query = UpdateRNN(), QueryRNN()
    gradient, delta = torch.randn(2, 5, dimension)
    memory = torch.rand(5, 10, dimension) - 0.5, torch.randn(5, 10, dimension)

    def outputs(rows):
        held = memory[0][rows], memory[1][rows]
        update, after = network(gradient[rows], held)
        sigma, offset, also = query(gradient[rows], delta[rows], held)
        return [update, *after, sigma, offset, *also]

    whole = outputs(list(range(5)))
    for rows in ([0], [3], [4, 1]):
        assert all(torch.equal(own, among[rows]) for own, among in zip(outputs(rows), whole, strict=True))


def test_no_gradient_flows_into_what_a_query_rnn_sees():
    gradient, delta = torch.randn(2, 1, 4, requires_grad=True)
    network = QueryRNN()
    sigma, _, _ = network(gradient, delta, network.begin(1, 4))
    with pytest.raises(RuntimeError, match=r"does not require grad|not have been used"):
        torch.autograd.grad(sigma.square().mul(torch.arange(4)).sum(), gradient)
    update, _ = UpdateRNN()(gradient, UpdateRNN().begin(1, 4))
    assert float(torch.autograd.grad(update.sum(), gradient)[0].abs().max()) > 0


def test_weights_of_another_hidden_size_are_refused():
    for kind in (UpdateRNN, QueryRNN):
        theirs = {f"part.{key}": value for key, value in kind(hidden=4).state_dict().items()}
        outer = nn.ModuleDict({"part": kind()})
        with pytest.raises(ValueError, match=f"hidden is 10 in this {kind.__name__}, and 4 in the checkpoint: build"):
            outer.load_state_dict(theirs)
        nn.ModuleDict({"part": kind(hidden=4)}).load_state_dict(theirs)
        with pytest.raises(ValueError, match="hidden must be at least 1 unit, got 0"):
            kind(hidden=0)


def test_they_are_offered_as_no_victim():
    assert not {"UpdateRNN", "QueryRNN"} & set(known_classes("victim"))
