"""Whole iterations of the compiled GRU, LSTM and RNN, against the loop by plain operations."""

import pytest
import torch
from compiled_cells import CELLS, COMPILED, DTYPES, EACH, METHODS, mates, plainly, problem, tensors, wide

import lds_iter as li

pytestmark = pytest.mark.skipif(not COMPILED, reason="no C++ compiler, or turned off")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "form"), EACH)
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"window": 1}, {"rtol": 0}, {"rtol": 0, "atol": 0}])
def test_solves_like_the_plain_loop(kind, form, dtype, options, monkeypatch):
    method = METHODS[form]
    for n, batch, width in [(1, (), 3), (50, (), 8), (97, (3,), 5), (60, (2, 2), 16), (31, (), 64), (15, (2,), 128)]:
        f, u, h = problem(kind, n, batch, width, dtype)
        f64, u64, h64 = wide(kind, f, u, h)
        exact = plainly(monkeypatch, li.sequential, f64, h64[0], u64)
        ours = li.solve(f, h[0], u, method, guess=h, **options)
        plain = plainly(monkeypatch, li.solve, f, h[0], u, method, guess=h, **options)
        # the stopping tolerance, or the rounding of `f`, both amplified by the network
        assert float((ours.states.double() - exact).abs().max()) <= max(
            3 * float((plain.states.double() - exact).abs().max()), 1e4 * torch.finfo(dtype).eps
        )
        # rounding may decide at the edge of a tolerance; with none left, it decides what comes last
        assert options.get("atol") == 0 or (ours.iterations - plain.iterations).abs().max() <= 1
        assert ours.converged


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_single_iterations_are_those_of_the_plain_loop(kind, form, monkeypatch):
    """States and residuals of every iteration while far from converged, with rows accepted at unequal times."""
    for n, batch, width in [(61, (3,), 5), (40, (), 16), (33, (2,), 33)]:
        f, u, h = problem(kind, n, batch, width, torch.float64)
        guess = h.clone()
        flat = guess.view(n, -1, h.shape[-1])
        own = li.sequential(f, h[0], u).view(flat.shape)
        for mate in range(flat.shape[1]):
            flat[: 7 * mate + 4, mate] = own[: 7 * mate + 4, mate]  # solved up to rounding: accepted in the first sweep
        for limit in 1, 2, 3:
            options = {"guess": guess, "max_iters": limit, "throw": False}
            ours = li.solve(f, h[0], u, METHODS[form], **options)
            plain = plainly(monkeypatch, li.solve, f, h[0], u, METHODS[form], **options)
            # sums in another order, amplified by an iteration that may move away first: far below any change
            near = 1e-9 * (1 + float(plain.states.abs().max()))
            torch.testing.assert_close(ours.states, plain.states, rtol=0, atol=near)
            torch.testing.assert_close(ours.residual, plain.residual, rtol=1e-6, atol=near)
            assert torch.equal(ours.iterations, plain.iterations)
            assert torch.equal(ours.evaluations, plain.evaluations)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_the_residual_belongs_to_the_states(kind, form):
    f, u, h = problem(kind, 80, (3,), 8, torch.float32)
    for limit in 1, 2, 4:
        solution = li.solve(f, h[0], u, METHODS[form], max_iters=limit, throw=False)
        prev = torch.cat([h[:1], solution.states[:-1]])
        expected = (f(prev, u) - solution.states).abs().amax((0, -1))
        # accepted rows keep the residual with which they were accepted: a unit in the last place
        torch.testing.assert_close(solution.residual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "form"), EACH)
@pytest.mark.parametrize("window", [None, 20])
def test_batch_mates_and_threads_do_not_matter_to_the_bit(kind, form, window):
    """Even for a recurrence with matrix products, for every row is computed by the same instructions."""
    for width in 5, 8, 33:
        f, u, h = problem(kind, 150, (4,), width, torch.float32)
        together = li.solve(f, h[0], u, METHODS[form], window=window)
        for mate in range(4):
            alone = li.solve(f, h[0, mate], mates(u, (slice(None), mate)), METHODS[form], window=window)
            assert torch.equal(alone.states, together.states[:, mate])
            assert alone.iterations == together.iterations[mate]
            assert torch.equal(alone.residual, together.residual[mate])
        g, prev = torch.randn_like(h), torch.cat([h[:1], together.states[:-1]])
        adjoint, cell = f.solve_adjoint(prev, u, g), CELLS[kind][3]
        squares = cell.gradients(prev, tensors(kind, f, u), g, matrices=True)[1]
        own = f.solve_adjoint(prev[:, 1].contiguous(), mates(u, (slice(None), 1)), g[:, 1])
        assert torch.equal(own, adjoint[:, 1])
        torch.set_num_threads(2)
        try:
            assert torch.equal(li.solve(f, h[0], u, METHODS[form], window=window).states, together.states)
            assert torch.equal(f.solve_adjoint(prev, u, g), adjoint)
            again = cell.gradients(prev, tensors(kind, f, u), g, matrices=True)[1]
            assert all(torch.equal(one, other) for one, other in zip(again, squares, strict=True))
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_the_iteration_is_that_of_the_loop(kind, form, monkeypatch):
    """The loop by its tiles, with the compiled step and scan: to the bit, but for full Jacobians and blocks, whose
    products add up in another order; and a recording changes nothing."""
    for width in 5, 8, 33:
        f, u, h = problem(kind, 200, (3,), width, torch.float32)
        fused = li.solve(f, h[0], u, METHODS[form], record=True)
        assert torch.equal(fused.states, li.solve(f, h[0], u, METHODS[form]).states)
        with monkeypatch.context() as patch:
            patch.setattr(type(f), "fused_iteration", lambda *arguments: None)
            tiles = li.solve(f, h[0], u, METHODS[form], record=True)
        assert torch.equal(fused.iterations, tiles.iterations)
        if form == "diagonal":
            assert torch.equal(fused.states, tiles.states)
            assert torch.equal(fused.residual, tiles.residual)
            assert torch.equal(fused.history.residual_map, tiles.history.residual_map)
        else:  # both within the tolerance on the residual, 1e-5, amplified
            torch.testing.assert_close(fused.states, tiles.states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_states_that_are_not_finite_are_reset_and_counted(kind, form, monkeypatch):
    f, u, h = problem(kind, 40, (2,), 8, torch.float32)
    guess, signs = h.clone(), tensors(kind, f, u)[CELLS[kind][3].gates][0].sign()
    for row, size in (10, 3e38), (20, -3e38):
        guess[row, 0, :: CELLS[kind][3].parts] = size * signs  # one product overflows, and 0 * inf may follow
    solution = li.solve(f, h[0], u, METHODS[form], guess=guess)
    plain = plainly(monkeypatch, li.solve, f, h[0], u, METHODS[form], guess=guess)
    clean = li.solve(f, h[0, 1], mates(u, (slice(None), 1)), METHODS[form], guess=guess[:, 1])
    assert solution.converged
    # what overflows where depends on the order of operations; not that it is repaired
    assert (solution.iterations <= plain.iterations + 1).all()
    assert solution.resets[0] > 0 or kind in ("lstm", "tanh")  # whose functions saturate
    assert solution.resets[1] == 0
    assert torch.equal(solution.states[:, 1], clean.states)
    torch.testing.assert_close(solution.states, li.sequential(f, h[0], u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gru", "relu"])  # the others saturate
@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_a_value_at_the_frontier_that_is_not_finite_ends_its_sequence(kind, form):
    f, u, h = problem(kind, 12, (2,), 8, torch.float32, scale=10)
    h[0, 0] = 3e38  # products overflow
    solution = li.solve(f, h[0], u, METHODS[form], guess=h, throw=False)
    assert solution.result.tolist() == [int(li.Result.NONFINITE), int(li.Result.SUCCESS)]


@pytest.mark.parametrize(("kind", "form"), EACH)
def test_on_poisoned_memory(kind, form):
    """Inputs in the middle of NaN, and NaN in everything that is allocated: read and written is what belongs there."""

    def amid(x):
        room = torch.full((x.numel() + 64,), torch.nan, dtype=x.dtype)
        room[32 : 32 + x.numel()] = x.flatten()
        return room[32 : 32 + x.numel()].view(x.shape)

    for width in 3, 8, 17:
        f, u, h = problem(kind, 37, (2,), width, torch.float32)
        g = torch.randn_like(h)
        apart = tuple(amid(leaf) for leaf in u) if isinstance(u, tuple) else amid(u)

        def run(f=f, u=u, h=h, g=g, cell=CELLS[kind][3]):
            solution = li.solve(f, h[0], u, METHODS[form], guess=h)
            made, squares = cell.gradients(h, tensors(kind, f, u), g, matrices=True)
            return (
                solution.states,
                f.solve_adjoint(h, u, g),
                *cell.step(h, tensors(kind, f, u), blocks=True),
                *made,
                *squares,
            )

        expected = run()
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        try:
            assert torch.empty(1).isnan().all()
            found = run(u=apart, h=amid(h), g=amid(g))
        finally:
            torch.use_deterministic_algorithms(False)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
