"""What layers return and keep: dtypes under autocast, values that are nobody else's, threads, pickles, plans."""

import copy
import pickle
import threading

import pytest
import torch
from layers import KINDS, METHODS, pair

import lds_iter as li
from lds_iter.kernels.cpu.build import function

COMPILED = function("gru", "step", torch.float32, 7) is not None
HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_types_are_those_of_torch_and_numbers_those_of_full_precision(kind, method, gradients):
    for weights, inputs in (SINGLE, SINGLE), (SINGLE, HALF), (HALF, SINGLE), (HALF, HALF):
        for start in None, SINGLE, HALF:
            theirs, ours = (layer.to(weights) for layer in pair(kind, 3, 8, method=method, dtype=SINGLE))
            x, h = torch.randn(30, 2, 3).to(inputs), None if start is None else torch.full((1, 2, 8), 0.25).to(start)
            hx = (h, h) if kind == "LSTM" and h is not None else h
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", HALF):
                found, expected = ours(x, hx), theirs(x, hx)
            for one, other in zip(flat(found), flat(expected), strict=True):
                assert one.dtype == other.dtype
                torch.testing.assert_close(one.float(), other.float(), rtol=0.05, atol=0.05)  # 8 bits, 30 steps
            assert method is None or ours.last_solution[0].converged


def flat(results):
    output, final = results
    return [output, *(final if isinstance(final, tuple) else (final,))]


@pytest.mark.parametrize("kind", KINDS)
def test_float64_stays_float64_under_autocast(kind):
    _, layer = pair(kind)
    with torch.autocast("cpu", HALF):
        assert all(one.dtype == torch.float64 for one in flat(layer(torch.randn(9, 2, 3, dtype=torch.float64))))


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_overwritten_leaves_the_last_solution_as_it_is(kind):
    for graph in False, True:
        _, layer = pair(kind, method=li.Newton())
        with torch.set_grad_enabled(graph):
            output, _ = layer(torch.randn(30, 2, 3, dtype=torch.float64))
        before = layer.last_solution[0].states.clone()
        output.data.zero_()
        assert torch.equal(layer.last_solution[0].states, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_share_a_layer(kind, method):
    theirs, ours = pair(kind, method=method)
    inputs = [torch.randn(10 + 5 * n, 2, 3, dtype=torch.float64) for n in range(8)]
    gradient = lambda layer, x: torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))  # noqa: E731
    expected, failed = [gradient(theirs, x) for x in inputs], []

    def work(n):
        try:
            for _ in range(5):
                torch.testing.assert_close(gradient(ours, inputs[n]), expected[n])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("make", [lambda: li.nn.GRU(3, 8), lambda: li.nn.Recurrent(torch.nn.GRUCell(3, 8), window=64)])
def test_a_pickle_does_not_grow_with_the_shapes_that_were_seen(make):
    layer = make()
    size = len(pickle.dumps(layer))
    for steps in range(20, 60):
        layer(torch.randn(steps, 1, 3))
    assert len(pickle.dumps(layer)) <= size + 100  # what is counted, such as `_warned`
    assert len(pickle.dumps(copy.deepcopy(layer))) <= size + 100


def test_the_last_plan_tells_who_computed():
    layer, x = li.nn.GRU(3, 8), torch.randn(30, 2, 3)
    assert layer.last_plan is None
    layer(x)
    assert layer.last_plan.route is (li.nn.Route.STEPS if COMPILED else li.nn.Route.KERNEL)
    assert layer.last_solution == ()
    layer.method = li.Newton()
    layer(x)
    assert layer.last_plan.route is li.nn.Route.SOLVE
    layer(x[:, :0])
    assert layer.last_plan.route is li.nn.Route.KERNEL
    assert "empty" in layer.last_plan.why
    assert copy.deepcopy(layer).last_plan is None


@pytest.mark.skipif(not COMPILED, reason="no C++ compiler, or turned off")
@pytest.mark.parametrize("kind", KINDS)
def test_by_default_a_layer_takes_its_steps_in_compiled_code(kind, monkeypatch):
    _, ours = pair(kind, num_layers=2, bidirectional=True)
    monkeypatch.setattr(getattr(torch.nn, kind), "forward", None)
    ours(torch.randn(9, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert ours.last_plan.route is li.nn.Route.STEPS


@pytest.mark.skipif(not COMPILED, reason="no C++ compiler, or turned off")
@pytest.mark.parametrize(
    ("shape", "width", "training", "steps"),
    [
        ((600, 1), 8, False, True),
        ((600, 1), 64, True, True),
        ((600, 2), 8, False, False),  # products of matrices, which one kernel makes for the whole batch
        ((600, 2), 8, True, True),
        ((600, 2), 32, True, False),
        ((600, 9), 32, True, True),
        ((600, 1), 128, True, False),
        ((500, 1), 8, False, False),  # over before steps could begin
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_lstm_takes_torchs_kernel_where_that_is_faster(shape, width, training, steps, batch_first):
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, width, batch_first=batch_first)
    ours = li.nn.parallelize(copy.deepcopy(theirs))
    x = torch.randn(*reversed(shape), 3) if batch_first else torch.randn(*shape, 3)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=4e-6)  # roundings of a contracting network
    assert (ours.last_plan.route is li.nn.Route.STEPS) == steps


@pytest.mark.skipif(not COMPILED, reason="no C++ compiler, or turned off")
@pytest.mark.parametrize(("threads", "width", "steps"), [(1, 128, True), (2, 128, False), (2, 64, True)])
def test_a_wide_lstm_takes_torchs_kernel_on_several_threads(threads, width, steps):
    ours = li.nn.LSTM(3, width)
    torch.set_num_threads(threads)  # reset by a fixture before the next test
    with torch.no_grad():
        ours(torch.randn(600, 1, 3))
    assert (ours.last_plan.route is li.nn.Route.STEPS) == steps


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_compiler_torchs_kernel_answers(kind, monkeypatch):
    theirs, ours = pair(kind)
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    assert torch.equal(ours(x)[0], theirs(x)[0])
    assert ours.last_plan.route is li.nn.Route.KERNEL


@pytest.mark.parametrize("method", METHODS)
def test_sparse_inputs_are_refused_in_torchs_words(method):
    theirs, ours = pair("GRU", method=method)
    x = torch.randn(5, 2, 3, dtype=torch.float64).to_sparse()
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)) as expected:
        theirs(x)
    with pytest.raises(expected.type) as found:
        ours(x)
    assert str(found.value) == str(expected.value)
