"""The laws of a method, each a function of an examination and a trial: `check_method` runs them all, or those named."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.derivatives.along import linearize_along
from lds_iter.linear.transitions import leaves
from lds_iter.methods.base import StatefulTransition, TransitionApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.newton import Newton
from lds_iter.recurrence import Function
from lds_iter.solution import Solution
from lds_iter.solve import solve
from lds_iter.testing.findings import Examination, Measurements
from lds_iter.testing.nesting import nests
from lds_iter.testing.of_recurrences import close_to
from lds_iter.testing.of_transitions import near, random_vectors, room
from lds_iter.testing.plainly import plain_loop, sine_map
from lds_iter.testing.trial import Law, Trial

FAR = 300.0
"""An input at which the recurrence of the law about batches returns inf."""

DIGITS = 1e-4
"""The residual to which iterations are counted."""


def trajectory(look: Examination, trial: Trial) -> None:
    """Every window ends at the states of the loop, within T iterations, and reports what it returns."""
    with look.law(
        "ends at the trajectory",
        "in at most T iterations, whatever the window, with the residual of the very states that are returned",
        "The loop sees to that for any proposal; what breaks it raises. See the message.",
    ) as measured:
        for window in trial.windows:
            found, name = trial.solve(window=window, rtol=trial.tight, atol=trial.tight), f"window={window}"
            measured.true(found.converged, f"{name}: {found!r}")
            measured.true(int(found.iterations.max()) <= len(trial.truth), f"{name}: more than T iterations")
            measured.true(found.iterations.shape == found.residual.shape == trial.s0.shape[:-1], f"{name}: shapes")
            close_to(measured, found.states, trial.truth, name, trial.tight)
            prev = torch.cat([trial.s0.unsqueeze(0), found.states[:-1]])
            residual = (trial.f(prev, trial.inputs) - found.states).abs().amax((0, -1))
            largest = 1 + float(found.states.abs().max())
            size = 100 * torch.finfo(residual.dtype).eps * largest
            measured.close(found.residual, residual, f"{name}: the residual", rtol=1e-3, atol=size)
            within = float(found.residual.max()) <= trial.tight * largest
            measured.true(within, f"{name}: a residual of {float(found.residual.max()):.2g}")


def exact_prefix(look: Examination, trial: Trial) -> None:
    """After k iterations the first k rows are final."""
    with look.law(
        "accepts a row an iteration",
        "after k iterations the first k states are those of the loop",
        "The loop takes the frontier row from `f` itself; see the message.",
    ) as measured:
        for k in sorted({1, (len(trial.truth) + 1) // 2} - {len(trial.truth)}):
            found = trial.solve(max_iters=k, rtol=0.0, atol=0.0)
            close_to(measured, found.states[:k], trial.truth[:k], f"the first {k}", trial.tight)


def leaves_a_solution(look: Examination, trial: Trial) -> None:
    """A guess that is the solution takes no iteration."""
    with look.law(
        "leaves a solution alone",
        "a guess that is right to the bit takes no iteration and comes back as it is",
        "The loop sees to that; see the message.",
    ) as measured:
        (u,) = random_vectors(trial.truth, trial.seed, 1)
        exact = plain_loop(sine_map, trial.s0, u)
        for window in trial.windows:
            found = solve(sine_map, trial.s0, u, trial.method, guess=exact, window=window, rtol=0.0, atol=0.0)
            measured.true(
                int(found.iterations.max()) == 0, f"window={window}: {int(found.iterations.max())} iterations"
            )
            measured.true(torch.equal(found.states, exact), f"window={window}: other states")
            measured.true(bool((found.evaluations == len(exact)).all()), f"window={window}: more than T evaluations")


def keeps_the_batch_apart(look: Examination, trial: Trial) -> None:
    """Each element of a batch has the counts and the states that it has alone, also where another one fails."""
    if trial.s0.ndim < 2 or trial.mates is None:
        look.note("The law about the elements of a batch was left out: give an `s0` of shape (batch, D) and `mates`.")
        return
    (u,) = random_vectors(trial.truth, trial.seed, 1)
    flat, s0 = u.flatten(1, -2), trial.s0.flatten(0, -2)
    flat[len(flat) // 2 :, -1] = FAR
    rates = torch.linspace(0.05, 0.95, len(s0), dtype=s0.dtype, device=s0.device).unsqueeze(-1)
    mean = f"each has the count and code that it has alone, and its states to {trial.mates:g} of the largest"
    with look.law(
        "keeps the elements of a batch apart",
        mean,
        "Reduce over time or D, never over the batch; measure rows where `lin.open` is true; keep what is known of "
        "sequences that wait by `lin.keep(new, old)`; a random choice may depend on time and coordinate alone.",
    ) as measured:
        for window in trial.windows:
            options = {"window": window, "max_iters": 1 + len(flat) // 2, "throw": False}
            together = solve(_fading(rates), s0, flat, trial.method, **options)
            for i in range(len(s0)):
                alone = solve(_fading(rates[i]), s0[i], flat[:, i], trial.method, **options)
                _compare_mates(measured, alone, together, i, f"window={window}, element {i}", trial.mates)


def _fading(rates: Tensor) -> Function:
    """`rate sin(s) + u`, where each element of the batch forgets at another rate; inf where `u` is `FAR`."""
    return lambda s, u: torch.where(u == FAR, torch.inf, rates * torch.sin(s) + u)


def _compare_mates(
    measured: Measurements, alone: Solution, together: Solution, i: int, what: str, mates: float
) -> None:
    """One sequence solved alone, and the same as element `i` of a batch."""
    for name in "iterations", "result", "evaluations", "resets":
        ours, theirs = int(getattr(alone, name)), int(getattr(together, name)[i])
        measured.true(ours == theirs, f"{what}: {name} {ours} alone, {theirs} together")
    for name, ours, theirs in (
        ("states", alone.states, together.states[:, i]),
        ("residual", alone.residual, together.residual[i]),
    ):
        near(measured, theirs.nan_to_num(-1.0), ours.nan_to_num(-1.0), f"{what}: {name}", mates)


def rows_stand_alone(look: Examination, trial: Trial) -> None:
    """The transition of a row does not depend on which rows are at hand."""
    method = trial.method
    if not (isinstance(method, TransitionApproximation) and method.runs_forward):
        return
    with look.law(
        "chooses row by row",
        "the matrix of a row is the same, whichever rows come together: all, a tile, or a window",
        "`lin.rows.start` is the time of the first row at hand. What must see all rows (a mean over time, the largest "
        "residual) belongs into a li.StatefulTransition, which is given all rows of the window at once.",
    ) as measured:
        lin, (x,) = trial.linearization(), random_vectors(trial.truth, trial.seed, 1)
        whole, rows = method.transition(lin), (len(x) + 2) // 3
        product, given = whole.mv(x), (trial.f, lin.prev, lin.states, trial.inputs)
        for stretch in linearize_along(*given, rows=rows, iteration=0):
            found = method.transition(stretch).mv(x[stretch.rows])
            what = f"rows {stretch.rows.start} to {stretch.rows.stop - 1}"
            near(measured, found, product[stretch.rows], what, 16 * room(whole, x))


def repeats_itself(look: Examination, trial: Trial) -> None:
    """A second solve is the first one."""
    with look.law(
        "keeps nothing in itself",
        "a second solve by the same object has the same counts and states to the bit",
        "What a method remembers, it returns as its carry; what is random comes from a seed and the time.",
    ) as measured:
        one, other = trial.solve(), trial.solve()
        measured.true(torch.equal(one.iterations, other.iterations), "other counts")
        measured.close(other.states, one.states, "states", rtol=0, atol=0)


def has_the_gradient(look: Examination, trial: Trial) -> None:
    """The implicit gradient, solved by the method's `for_adjoint()`, is that of the loop."""
    with (
        look.law(
            "solves its adjoint",
            "the gradient by `method.for_adjoint()`, on T - 1 rows reversed in time, is that of the loop",
            "`for_adjoint` returns a method for any linear recurrence; a wrapper returns `self.method.for_adjoint()`. "
            "What holds `f` or numbers of its own per time step returns li.Newton().",
        ) as measured,
        torch.enable_grad(),
    ):
        start = trial.s0.clone().requires_grad_()
        for window in trial.windows:
            options = {"window": window, "rtol": trial.tight, "atol": trial.tight}
            states = solve(trial.f, start, trial.inputs, trial.method, **options).states
            (ours,) = torch.autograd.grad(states.sum(), start)
            (theirs,) = torch.autograd.grad(plain_loop(trial.f, start, trial.inputs).sum(), start)
            close_to(measured, ours, theirs, f"window={window}")


def is_of_use(look: Examination, trial: Trial) -> None:
    """No law, but good to know: how many iterations it saves."""
    if not look.findings():
        return
    three = (trial.method, Jacobi(), Newton())
    ours, jacobi, newton = (int(trial.solve(m, rtol=0.0, atol=DIGITS).iterations.max()) for m in three)
    length = len(trial.truth)
    look.note(
        f"To a residual of {DIGITS:g} it takes {ours} of {length} iterations, where Jacobi() takes {jacobi} and "
        f"Newton() {newton}."
    )
    if ours >= length > jacobi:
        look.note(
            "All T iterations: it is right, and of no use here. In order of likelihood: `update` returns states in "
            "place of the update d; a scan returns its solution, or `after` is wrong; the sign of A or of the residual."
        )
    resets = int(trial.solve().resets.sum())
    if resets:
        look.note(f"{resets} proposed rows were not finite, and were replaced by the value of `f`.")


def keeps_its_structure(look: Examination, trial: Trial) -> None:
    """What it chooses is a transition of the rows at hand, and the same number of rows each time."""
    method = trial.method
    if not isinstance(method, StatefulTransition):
        return
    with look.law(
        "chooses a transition",
        "`choose` returns a transition for the rows at hand and a carry",
        "See the message.",
    ) as measured:
        lin = trial.linearization()
        transition, _ = method.choose(lin, method.init(lin.states))
        for leaf in leaves(transition):
            measured.true(len(leaf) == len(trial.truth), f"a tensor of {len(leaf)} rows for {len(trial.truth)}")


LAWS: tuple[Law, ...] = (
    trajectory, exact_prefix, leaves_a_solution, keeps_its_structure, rows_stand_alone, repeats_itself,
    keeps_the_batch_apart, nests, has_the_gradient, is_of_use,
)  # fmt: skip
"""What `check_method` checks where it is told nothing else."""
