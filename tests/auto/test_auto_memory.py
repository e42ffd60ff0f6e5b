"""What a kept `Auto` remembers of solutions: it begins there where that is nearer, and is right wherever it begins."""

import copy
import pickle

import pytest
import torch
from catalogue import loop
from clocks import Counted, CountedClock, Ticks
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li
from lds_iter.auto import memory
from lds_iter.auto.memory import Memory

F64 = {"dtype": torch.float64}
NEAR = "it begins at the states of the last solve"


class Network(Counted):
    """`s_t = tanh(W s_{t-1} + u_t)`, whose weights may change."""

    def __init__(self, gain=0.9, width=4):
        super().__init__(self.plain, row=0.001)
        torch.manual_seed(0)
        self.weight = gain * torch.linalg.qr(torch.randn(width, width, **F64)).Q

    def plain(self, s, u):
        return torch.tanh(s @ self.weight.T + u)


def begun(batch=(), solves=4, **options):
    """A network, inputs, and an `Auto` that has solved them a few times and knows what to do."""
    network = Network()
    auto = li.Auto(clock=CountedClock(network), **options)
    s0, u = torch.zeros(*batch, 4, **F64), torch.randn(2000, *batch, 4, **F64)
    for _ in range(solves):
        solution = li.solve(network, s0, u, auto)
    return network, auto, s0, u, solution


def test_while_parameters_change_little_it_begins_at_the_last_states():
    network, auto, s0, u, _ = begun()
    for _ in range(3):
        network.weight = network.weight + 1e-5
        solution = li.solve(network, s0, u, auto)
        assert NEAR in solution.decisions[0].why
        plain = li.solve(network, s0, u, li.Newton())
        assert int(solution.iterations) <= int(plain.iterations) - 2
        # The residual, 1e-10, is all that separates these.
        torch.testing.assert_close(solution.states, loop(network.plain, s0, u), rtol=1e-8, atol=1e-8)


def test_a_start_nearby_does_not_change_what_is_known_of_others():
    network, auto, s0, u, _ = begun()
    (before,) = [dict(costs.outcomes) for costs in auto.costs.kinds.values()]
    network.weight = network.weight + 1e-5
    assert NEAR in li.solve(network, s0, u, auto).decisions[0].why
    (after,) = [costs.outcomes for costs in auto.costs.kinds.values()]
    assert before == after


def test_states_for_other_inputs_are_no_nearer_and_rest_then():
    network, auto, s0, u, _ = begun()
    looked = []
    for _ in range(8):
        network.spent = 0.0
        solution = li.solve(network, s0, torch.randn_like(u), auto)
        assert NEAR not in solution.decisions[0].why
        looked.append(network.spent)
    least = min(looked)  # a solve without a look
    (kept,) = auto.memory.kinds.values()
    # After the first failure one solve does not look, after the second three.
    assert [spent > least + 1 for spent in looked] == [True, False, True, False, False, False, True, False]
    assert kept.failures == 3
    assert max(looked) <= 1.1 * least + 1


def test_every_sequence_begins_where_it_is_nearer():
    network, auto, s0, u, _ = begun(batch=(2,))
    u = u.clone()
    u[:, 1] = torch.randn(2000, 4, **F64)
    solution = li.solve(network, s0, u, auto)
    assert NEAR in solution.decisions[0].why
    same, other = solution.iterations.tolist()
    assert same == 0
    assert other == int(li.solve(network, s0[1], u[:, 1], li.Newton()).iterations)
    torch.testing.assert_close(solution.states, loop(network.plain, s0, u), rtol=1e-8, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(
    what=st.sampled_from([0.0, 1.0, 1e6, float("nan"), float("inf")]),
    rows=st.integers(0, 2000),
    noise=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_whatever_is_remembered_the_answer_is_right(what, rows, noise, seed):
    """Results share memory with what is kept, and their owner may write into them."""
    network, auto, s0, u, solution = begun()
    torch.manual_seed(seed)
    solution.states[:rows] = what
    solution.states[rows:] += noise * torch.randn(2000 - rows, 4, **F64)
    again = li.solve(network, s0, u, auto)
    assert again.converged
    torch.testing.assert_close(again.states, loop(network.plain, s0, u), rtol=1e-8, atol=1e-8)


def test_nothing_is_kept_where_it_is_of_no_use():
    _, auto, *_ = begun(warm_start=False)
    assert not auto.memory.kinds
    auto = li.Auto()
    for _ in range(3):
        li.solve(lambda s, u: 0.5 * s + u, torch.zeros(2, **F64), torch.ones(500, 2, **F64), auto)
    assert not auto.memory.kinds  # linear: an iteration solves it
    chaos = Network(gain=4.0)
    auto = li.Auto(candidates=(li.auto.Candidate(li.Jacobi()),), clock=CountedClock(chaos))
    for _ in range(3):
        solution = li.solve(chaos, torch.zeros(4, **F64), torch.randn(300, 4, **F64), auto)
        assert solution.decisions[-1].choice == "step by step"
    assert not auto.memory.kinds


def test_the_oldest_give_way(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 100)
    kept, sizes = Memory(), {"a": 40, "b": 50, "c": 30, "d": 200}
    for name in "abc":
        kept.keep((name,), torch.zeros(sizes[name]))
    assert [kept.recall((name,)) is not None for name in "abc"] == [False, True, True]
    kept.keep(("b",), torch.ones(50))  # the newest now
    kept.keep(("d",), torch.zeros(200))
    assert kept.recall(("d",)) is None
    kept.keep(("a",), torch.zeros(40))
    assert [kept.recall((name,)) is not None for name in "abc"] == [True, True, False]


def test_copies_are_empty():
    network, auto, *_ = begun()
    assert auto.memory.kinds
    assert not copy.deepcopy(auto.memory).kinds
    assert not pickle.loads(pickle.dumps(li.Auto(memory=auto.memory))).memory.kinds
    assert network.spent > 0


def test_what_is_no_switch_or_memory_is_refused():
    with pytest.raises(TypeError, match="`warm_start` must be True or False, got 1"):
        li.Auto(warm_start=1)
    with pytest.raises(TypeError, match=r"`memory` must be a li\.auto\.Memory, got \{\}"):
        li.Auto(memory={})


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_training_on_a_whole_series_is_that_of_torch(kind):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(3, 8, num_layers=2, bidirectional=True, **F64)
    ours = getattr(li.nn, kind)(3, 8, num_layers=2, bidirectional=True, **F64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(600, 2, 3, **F64)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (theirs, ours)]
    for _ in range(8):
        for module, optimizer in zip((theirs, ours), optimizers, strict=True):
            optimizer.zero_grad()
            module(x)[0].square().mean().backward()
            optimizer.step()
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, rtol=1e-7, atol=1e-8)


def test_every_layer_and_direction_of_a_network_has_its_own():
    layer = li.nn.GRU(3, 8, num_layers=2, bidirectional=True, method=li.Auto(clock=Ticks([])))
    x = torch.randn(4000, 1, 3)
    for _ in range(3):
        layer(x)
    if all(solution.converged for solution in layer.last_solution):  # without compiled code torch's kernel answers
        kept = [one.buffer for one in layer.method.memory.kinds.values()]
        assert len(kept) == 4
        for buffer, solution in zip(kept, layer.last_solution, strict=True):
            assert torch.equal(buffer[1:], solution.states)
