"""Cells of any kind through `Recurrent`, against the same cell in a Python loop."""

import copy
import pickle

import pytest
import torch
from closeness import GRADIENTS, OUTPUTS, assert_close
from torch.utils import _pytree as pytree

import lds_iter as li

INPUTS = 3

F64 = {"dtype": torch.float64}


class Minimal(torch.nn.Module):
    """A user's own gated unit."""

    def __init__(self, width=4):
        super().__init__()
        self.hidden_size = width
        self.gate, self.new = (torch.nn.Linear(INPUTS + width, width, **F64) for _ in range(2))

    def forward(self, x, h):
        z = torch.sigmoid(self.gate(torch.cat([x, h], -1)))
        return z * h + (1 - z) * torch.tanh(self.new(torch.cat([x, z * h], -1)))


class ScalarLSTM(torch.nn.Module):
    """The sLSTM of Beck et al., "xLSTM: Extended long short-term memory" (2024), section 2.2, with one head.

    Exponential gates, kept in range by the stabilizer m; the state is (h, c, n, m).
    """

    def __init__(self, width=4):
        super().__init__()
        self.inner = torch.nn.Linear(INPUTS, 4 * width, **F64)
        self.recurrent = torch.nn.Linear(width, 4 * width, bias=False, **F64)

    def forward(self, x, state):
        h, c, n, m = state
        i, f, z, o = (self.inner(x) + self.recurrent(h)).chunk(4, -1)
        log_f = torch.nn.functional.logsigmoid(f)
        m_new = torch.maximum(log_f + m, i)
        i, f = torch.exp(i - m_new), torch.exp(log_f + m - m_new)
        c, n = f * c + i * torch.tanh(z), f * n + i
        return torch.sigmoid(o) * c / n.clamp(min=1e-6), c, n, m_new


class Channelwise(torch.nn.Module):
    """A gated unit without mixing of channels, as ParaRNN has it, that knows its own derivatives."""

    def __init__(self, width=4):
        super().__init__()
        self.inner = torch.nn.Linear(INPUTS, 2 * width, **F64)
        self.a = torch.nn.Parameter(torch.randn(2, width, **F64))

    def inputs(self, x):
        return self.inner(x)

    def forward(self, h, u):
        return self.linearize(h, u).value

    def linearize(self, h, u):
        x_z, x_n = u.chunk(2, -1)
        z, n = torch.sigmoid(x_z + self.a[0] * h), torch.tanh(x_n + self.a[1] * h)
        slope = z + (h - n) * z * (1 - z) * self.a[0] + (1 - z) * (1 - n * n) * self.a[1]
        return li.ElementwiseDerivatives(z * h + (1 - z) * n, slope)


def zeros(batch=2):
    return torch.zeros(batch, 4, **F64)


CELLS = {
    "rnn": (lambda: torch.nn.RNNCell(INPUTS, 4, **F64), zeros),
    "relu": (lambda: torch.nn.RNNCell(INPUTS, 4, nonlinearity="relu", bias=False, **F64), zeros),
    "gru": (lambda: torch.nn.GRUCell(INPUTS, 4, **F64), zeros),
    "gru-wide": (lambda: torch.nn.GRUCell(INPUTS, 12, **F64), lambda: torch.zeros(2, 12, **F64)),
    "lstm": (lambda: torch.nn.LSTMCell(INPUTS, 4, **F64), lambda: (zeros(), zeros())),
    "own": (Minimal, zeros),
    "slstm": (ScalarLSTM, lambda: tuple(zeros() for _ in range(4))),
    "channelwise": (Channelwise, zeros),
}


def by_hand(cell, x, state):
    """The Python loop."""
    states = []
    for row in x:
        state = cell(state, cell.inputs(row)) if isinstance(cell, Channelwise) else cell(row, state)
        states.append(state)
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *states), state


def gradients(run, cell, x, state):
    leaves, spec = pytree.tree_flatten(state)
    leaves = [torch.randn_like(leaf).mul_(0.1).requires_grad_() for leaf in leaves]
    x = x.clone().requires_grad_()
    states, final = run(x, pytree.tree_unflatten(leaves, spec))
    results = pytree.tree_leaves((states, final))
    generator = torch.Generator().manual_seed(1)
    loss = sum((result * torch.randn(result.shape, generator=generator, **F64)).sum() for result in results)
    grads = torch.autograd.grad(loss, [*cell.parameters(), x, *leaves], allow_unused=True)
    return [*results, *(torch.zeros(()) if grad is None else grad for grad in grads)]


@pytest.mark.parametrize("name", CELLS)
def test_states_and_gradients_are_those_of_the_loop(name):
    make, initial = CELLS[name]
    cell, x = make(), torch.randn(25, 2, INPUTS, **F64)
    layer = li.nn.Recurrent(cell)
    found = layer(x, initial())
    assert layer.last_solution is None or layer.last_solution.converged
    assert_close(pytree.tree_leaves(found), pytree.tree_leaves(by_hand(cell, x, initial())), OUTPUTS)
    torch.manual_seed(1)
    ours = gradients(layer, cell, x, initial())
    torch.manual_seed(1)
    assert_close(ours, gradients(lambda x, state: by_hand(cell, x, state), cell, x, initial()), GRADIENTS)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "own"])
def test_a_cell_with_a_hidden_size_begins_with_zeros(name):
    make, initial = CELLS[name]
    layer, x = li.nn.Recurrent(make()), torch.randn(25, 2, INPUTS, **F64)
    assert_close(pytree.tree_leaves(layer(x)), pytree.tree_leaves(layer(x, initial())), {"rtol": 0, "atol": 0})


@pytest.mark.parametrize("name", CELLS)
def test_layouts(name):
    make, initial = CELLS[name]
    cell, x = make(), torch.randn(25, 2, INPUTS, **F64)
    states, final = by_hand(cell, x, initial())
    batch_first = li.nn.Recurrent(cell, batch_first=True)(x.transpose(0, 1), initial())
    expected = [leaf.transpose(0, 1) for leaf in pytree.tree_leaves(states)] + pytree.tree_leaves(final)
    assert_close(pytree.tree_leaves(batch_first), expected, OUTPUTS)
    single = li.nn.Recurrent(cell)(x[:, 1], pytree.tree_map(lambda leaf: leaf[1], initial()))
    expected = [leaf[:, 1] for leaf in pytree.tree_leaves(states)] + [leaf[1] for leaf in pytree.tree_leaves(final)]
    assert_close(pytree.tree_leaves(single), expected, OUTPUTS)


def xlstm_cell(heads=2, width=4):
    """The sLSTM cell of the package `xlstm`, its plain PyTorch backend, with its own initialisation."""
    from xlstm.blocks.slstm.cell import sLSTMCell_vanilla, sLSTMCellConfig

    config = sLSTMCellConfig(
        hidden_size=width, num_heads=heads, backend="vanilla", recurrent_weight_init="standard",
        input_shape="SBGNH", output_shape="SBH",
    )  # fmt: skip
    return sLSTMCell_vanilla(config).double()


@pytest.mark.parametrize("heads", [1, 2])
def test_the_slstm_of_xlstm(heads):
    """Against the package's own forward; the state is (h, c, n, m), each `(B, width)`, with a recurrent block a head.

    Whether it is at its first step the package reads off `torch.all(n == 0)` over the whole batch, which is no property
    of a row. So it takes the first step itself, and the layer begins after it.
    """
    cell, x = xlstm_cell(heads), torch.randn(25, 2, 16, **F64, requires_grad=True)

    def step(x, state):
        return tuple(cell._impl_step(cell.training, x.unsqueeze(0), torch.stack(state))[:, 0])

    def gradients_of(output, final):
        generator = torch.Generator().manual_seed(1)
        loss = sum((leaf * torch.randn(leaf.shape, generator=generator, **F64)).sum() for leaf in (output, final))
        return torch.autograd.grad(loss, [*cell.parameters(), x])

    layer = li.nn.Recurrent(step)
    first = step(x[0], tuple(zeros() for _ in range(4)))
    states, final = layer(x[1:], first)
    assert layer.last_solution.converged
    ours = torch.cat([first[0].unsqueeze(0), states[0]]), torch.stack(final)
    theirs = cell(x)
    assert_close(ours, theirs, OUTPUTS)
    assert_close(gradients_of(*ours), gradients_of(*theirs), GRADIENTS)


def test_one_product_is_the_exact_diagonal_of_a_channelwise_function():
    weight = torch.rand(32, **F64)
    cell = torch.nn.Module()
    cell.forward = lambda x, h: torch.tanh(weight * h + x)  # pyright: ignore
    layer = li.nn.Recurrent(cell, method=li.QuasiNewton(li.Hutchinson()))
    layer(torch.randn(100, 2, 32, **F64), torch.zeros(2, 32, **F64))
    estimated = layer.last_solution.iterations
    layer.method = li.QuasiNewton()
    layer(torch.randn(100, 2, 32, **F64), torch.zeros(2, 32, **F64))
    assert (estimated <= layer.last_solution.iterations + 1).all()


def test_a_cell_over_budget_is_computed_step_by_step():
    cell = Minimal()
    layer, x = li.nn.Recurrent(cell, method=li.Newton(), max_iters=1), torch.randn(25, 2, INPUTS, **F64)
    torch.func.jvp(torch.tanh, (x,), (x,))  # the first time torch warns, of its own use of torch.jit
    with pytest.warns(li.PerformanceWarning, match="Minimal") as caught:
        states, final = layer(x)
    assert len(caught) == 1
    expected = by_hand(cell, x, zeros())
    torch.testing.assert_close(states, expected[0], **OUTPUTS)
    torch.testing.assert_close(final, expected[1], **OUTPUTS)
    states.sum().backward()
    assert cell.gate.weight.grad is not None
    layer(x)  # says nothing more: warnings are errors here


def test_copies_of_a_recurrent():
    layer, x = li.nn.Recurrent(Minimal(), window=10), torch.randn(25, 2, INPUTS, **F64)
    states, _ = layer(x)
    for twin in copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)):
        assert twin.last_solution is None
        torch.testing.assert_close(twin(x)[0], states)
    assert "cell.gate.weight" in layer.state_dict()
