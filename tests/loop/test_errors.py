"""Every wrong argument gets an error that says what was expected, what came, and what to type, before any compute."""

import pytest
import torch

import lds_iter as li

S0 = torch.zeros(2, 3)
U = torch.ones(5, 2, 3)


def f(s, u):
    return 0.5 * s + u


class Counting:
    """An `f` that knows how many rows it was asked for."""

    def __init__(self, fn=f):
        self.fn, self.rows = fn, 0

    def __call__(self, s, u):
        self.rows += s.shape[0]
        return self.fn(s, u)


ARGUMENTS = {
    "state not a tensor": ({"s0": (S0, S0)}, TypeError, r"`s0` must be a tensor.*li\.ravel"),
    "array state": ({"s0": S0.numpy()}, TypeError, r"got ndarray. Type `torch\.as_tensor\(s0, dtype=torch\.float32\)`"),
    "list state": ({"s0": [0.0, 0.0]}, TypeError, r"got list. Type `torch\.as_tensor\(s0"),
    "integer state": ({"s0": S0.int()}, TypeError, r"`s0` must be float32 or float64, got torch.int32.*s0\.float\(\)"),
    "half state": ({"s0": S0.half()}, TypeError, r"at least float32.*s0\.float\(\)"),
    "bfloat state": ({"s0": S0.bfloat16()}, TypeError, r"at least float32"),
    "complex state": ({"s0": S0 + 0j}, TypeError, r"float32 or float64, got torch.complex64.*view_as_real"),
    "scalar state": ({"s0": torch.tensor(1.0)}, ValueError, r"got \(\).*s0\.reshape\(1\)"),
    "empty state": ({"s0": torch.zeros(0, 3)}, ValueError, r"nothing empty"),
    "NaN state": ({"s0": S0 * torch.nan}, ValueError, r"`s0` contains inf or NaN"),
    "sparse state": ({"s0": S0.to_sparse()}, TypeError, r"`s0` must be an ordinary dense tensor.*s0\.to_dense\(\)"),
    "meta state": ({"s0": S0.to("meta")}, TypeError, r"`s0` is on the device meta, which holds no numbers"),
    "sparse inputs": ({"inputs": (U, U.to_sparse())}, TypeError, r"`inputs\[1\]` must be an ordinary dense tensor"),
    "nested inputs": (
        {"inputs": torch.nested.nested_tensor([U[:, 0]] * 5, layout=torch.jagged)},
        TypeError,
        r"got a nested tensor",
    ),
    "sparse guess": ({"guess": U.to_sparse()}, TypeError, r"`guess` must be an ordinary dense tensor"),
    "record a number": ({"record": 1}, TypeError, r"`record` must be True or False, got int"),
    "throw None": ({"throw": None}, TypeError, r"`throw` must be True or False, got NoneType"),
    "no inputs": ({"inputs": None}, ValueError, r"T is unknown.*torch\.arange\(T\)"),
    "inputs not tensors": ({"inputs": {"x": U, "dt": 0.1}}, TypeError, r"`inputs\['dt'\]` must be a tensor"),
    "a number among inputs": ({"inputs": (U, 0.1)}, TypeError, r"`inputs\[1\]` .* got float. What does not change"),
    "array inputs": ({"inputs": U.numpy()}, TypeError, r"got ndarray. Type `torch\.as_tensor\(inputs"),
    "list inputs": ({"inputs": [[1.0, 2.0]]}, TypeError, r"got float. Type `torch\.as_tensor\(inputs"),
    "range inputs": ({"inputs": range(5)}, TypeError, r"got range. .*torch\.arange\(T\)"),
    "T for inputs": ({"inputs": 5}, TypeError, r"got int. .*torch\.arange\(T\)"),
    "scalar input": ({"inputs": (U, torch.tensor(0.1))}, ValueError, r"`inputs\[1\]` must lead with T"),
    "unequal T": ({"inputs": (U, U[:4])}, ValueError, r"the same T.*'inputs\[0\]': 5, 'inputs\[1\]': 4"),
    "T = 0": ({"inputs": U[:0]}, ValueError, r"T = 0 time steps"),
    "NaN inputs": ({"inputs": U.index_fill(0, torch.tensor([3]), torch.nan)}, ValueError, r"`inputs`.*first at t = 3"),
    "inf inputs": ({"inputs": U / 0}, ValueError, r"inf or NaN in 5 time step"),
    "two devices": ({"inputs": U.to("meta")}, ValueError, r"`inputs` is on meta but `s0` on cpu.*\.to"),
    "guess on another device": ({"guess": U.to("meta")}, TypeError, r"`guess` must be torch.float32 on cpu"),
    "f not callable": ({"f": 3}, TypeError, r"`f` must be a callable"),
    "f a class": ({"f": torch.nn.GRU}, TypeError, r"`f` must be a callable"),
    "method a class": ({"method": li.Newton}, TypeError, r"got the class Newton. Type `Newton\(\)`"),
    "method a string": ({"method": "newton"}, TypeError, r"such as li\.Newton\(\), got 'newton'"),
    "guess shape": ({"guess": U[:4]}, ValueError, r"`guess` must have the shape of the states, \(5, 2, 3\), got \(4"),
    "guess dtype": ({"guess": U.double()}, TypeError, r"`guess` must be torch.float32 on cpu, got torch.float64"),
    "guess NaN": ({"guess": U * torch.nan}, ValueError, r"`guess` contains inf or NaN"),
    "guess a number": ({"guess": 0.0}, TypeError, r"`guess` must be a tensor"),
    "guess policy shape": ({"guess": lambda f, s0, u, n: s0}, ValueError, r"`guess` must have the shape"),
    "negative rtol": ({"rtol": -1e-3}, ValueError, r"`rtol` must be a finite number, 0 or more"),
    "infinite atol": ({"atol": float("inf")}, ValueError, r"`atol` must be a finite number"),
    "atol a string": ({"atol": "1e-3"}, ValueError, r"`atol` must be"),
    "max_iters negative": ({"max_iters": -1}, ValueError, r"`max_iters` must be a whole number, 0 or more"),
    "max_iters a float": ({"max_iters": 10.0}, ValueError, r"`max_iters` must be a whole number"),
    "window zero": ({"window": 0}, ValueError, r"`window` must be a whole number, 1 or more"),
    "misspelt": ({"windw": 3}, TypeError, r"no argument `windw`. Did you mean `window`\?"),
    "misspelt tolerance": ({"tol": 1e-3}, TypeError, r"no argument `tol`.*(rtol|atol)"),
    "unknown": ({"zzz": 1}, TypeError, r"no argument `zzz`. It takes: f, s0, inputs, method"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments(name):
    changes, error, message = ARGUMENTS[name]
    counting = Counting()
    arguments = {"f": counting, "s0": S0, "inputs": U, **changes}
    with pytest.raises(error, match=message):
        li.solve(**arguments)
    assert counting.rows <= 4  # the check of `f` looks at one row and then at three, and nothing else has run
    if {"s0", "inputs", "f"} & set(changes):
        with pytest.raises(error, match=message):
            li.sequential(**{key: value for key, value in arguments.items() if key in ("f", "s0", "inputs")})


def noisy(s, u):
    return f(s, u) + torch.randn_like(s)


FUNCTIONS = {
    "wrong width": (lambda s, u: (0.5 * s + u)[..., :2], ValueError, r"returned \(1, 2, 2\).*li\.fold"),
    "lost batch": (lambda s, u: (0.5 * s + u).sum(1), ValueError, r"must return the shape of its state"),
    "batch first": (lambda s, u: (0.5 * s + u).transpose(0, 1), ValueError, r"Time comes first"),
    "a tuple": (lambda s, u: (s, s), TypeError, r"must return a tensor, got tuple"),
    "writes into its state": (
        lambda s, u: s.mul_(0.5).add_(u),
        ValueError,
        r"changes its arguments in place.*s\.clone",
    ),
    "writes into its input": (lambda s, u: u.add_(0.5 * s), ValueError, r"changes its arguments in place"),
    "input and state the other way round": (torch.nn.GRUCell(3, 3), TypeError, r"GRUCell takes \(input, state\).*fold"),
    "wrong dtype": (lambda s, u: (s + u).double(), TypeError, r"must return torch.float32 on cpu"),
    "random": (noisy, ValueError, r"it is random \(dropout: call `\.eval\(\)`"),
    "mixes time": (lambda s, u: s + u - (s + torch.arange(len(s))[:, None, None]).mean(0), ValueError, r"mixes time"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_functions(name):
    function, error, message = FUNCTIONS[name]
    for run in li.solve, li.sequential:
        with pytest.raises(error, match=message):
            run(function, S0, U)


def test_an_error_inside_f_is_passed_on_with_a_note_on_how_f_was_called():
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        li.solve(f, torch.zeros(3), torch.randn(3, 2000))  # time and features swapped
    assert "called with states (1, 3) and inputs (1, 2000)" in caught.value.__notes__[0]
    assert "transpose" in caught.value.__notes__[0]


WIDTHS = {
    "a matrix for other inputs": (
        lambda s, u: s + u @ torch.ones(3, 5),
        "takes rows of 3 numbers and got 4 (4 is the last dimension of `inputs`): check",
    ),
    "a matrix for other states": (
        lambda s, u: s @ torch.ones(3, 5),
        "takes rows of 3 numbers and got 5 (5 is D of `s0`): check",
    ),
    "a layer of both": (
        lambda s, u: torch.nn.Linear(8, 5)(torch.cat([s, u], -1)),
        "rows of 8 numbers and got 9 (9 is D of `s0` and the last dimension of `inputs` together)",
    ),
    "a cell": (
        li.fold(lambda s, u: torch.nn.GRUCell(3, 5)(u, s)),
        "takes rows of 3 numbers and got 4 (4 is the last dimension of `inputs`): check",
    ),
    "a sum": (
        lambda s, u: s + u,
        "with 5 and 4 entries along one dimension (5 is D of `s0`, 4 is the last dimension of `inputs`)",
    ),
}


@pytest.mark.parametrize("run", [li.solve, li.sequential, li.start], ids=lambda run: run.__name__)
@pytest.mark.parametrize("name", WIDTHS)
def test_a_wrong_width_inside_of_f_is_named(name, run):
    function, words = WIDTHS[name]
    for s0, u in (torch.zeros(5), torch.ones(9, 4)), (torch.zeros(2, 5), torch.ones(9, 2, 4)):
        with pytest.raises(RuntimeError) as caught:
            run(function, s0, u)
        assert words in caught.value.__notes__[0]


def test_a_cell_of_torch_cannot_be_folded_the_wrong_way_round():
    with pytest.raises(TypeError, match=r"takes \(input, state\).*li\.nn\.Recurrent"):
        li.fold(torch.nn.GRUCell(3, 3))  # of equal widths, it would run, and be another network
    with pytest.raises(TypeError, match=r"LSTMCell takes .*Recurrent\(cell\)` for a layer of it\.$"):
        li.fold(torch.nn.LSTMCell(3, 3))  # whose state is a pair


def test_the_check_of_f_leaves_the_arguments_as_they_are():
    u = U.clone()
    with pytest.raises(ValueError, match="in place"):
        li.solve(lambda s, u: u.add_(0.5 * s), S0, u)
    assert torch.equal(u, U)


def test_inputs_and_states_that_broadcast_get_a_hint():
    with pytest.raises(ValueError, match=r"lack the batch of `inputs`: type `s0\.expand\(2, 3\)`"):
        li.solve(f, torch.zeros(3), U)
    with pytest.raises(ValueError, match=r"x\.unsqueeze\(-1\)"):
        li.solve(f, torch.zeros(1), torch.randn(5))
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        li.solve(f, torch.zeros(4), torch.randn(5))
    assert "x.unsqueeze(-1)" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match=r"x\.unsqueeze\(-1\)"):  # as wide as the check has rows
        li.solve(f, torch.zeros(3), torch.randn(5))


def test_a_list_of_time_steps_is_told_to_be_stacked_and_does_not_fill_the_screen():
    with pytest.raises(TypeError) as caught:
        li.solve(f, S0, list(torch.ones(500, 2, 3)))
    assert "torch.stack(inputs)" in caught.value.__notes__[0]
    assert len(caught.value.__notes__[0]) < 600


def test_an_f_that_leaves_torch_is_told_so_where_its_derivative_is_needed():
    def through_numpy(s, u):
        return torch.from_numpy(0.5 * s.detach().numpy()) + u

    with pytest.raises(RuntimeError) as caught:
        li.solve(through_numpy, S0, U)
    assert "leaves torch" in caught.value.__notes__[-1]
    assert li.solve(through_numpy, S0, U, li.Jacobi()).converged  # as the note says


def test_batch_norm_in_training_mode_is_named():
    norm = torch.nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="batch norm in training mode"):
        li.solve(li.fold(lambda s, u: 0.5 * norm(s) + u), S0, U)


def test_a_scan_needs_a_structure():
    with pytest.raises(TypeError, match=r"got Tensor. Type `li\.Diagonal\(a\)`"):
        li.linear_scan(torch.rand(5, 3), torch.rand(5, 3))  # pyright: ignore[reportArgumentType]


def test_dropout_is_noticed():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    with pytest.raises(ValueError, match="dropout"):
        li.solve(lambda s, u: module(s) + u, S0, U)
    module.eval()
    assert li.solve(lambda s, u: module(s) + u, S0, U).converged


@pytest.mark.parametrize(
    ("build", "known"),
    [
        (lambda: li.Auto(budgt=0.1), "budget"),
        (lambda: li.Implicit(windw=3), "window"),
        (lambda: li.Coarse(strid=3), "stride"),
        (lambda: li.nn.SolveOptions(metod=li.Newton()), "method"),
        (lambda: li.start(lambda s, u: s, S0, U, windw=3), "window"),
        (lambda: li.sequential(lambda s, u: s, S0, input=U), "inputs"),
        (lambda: li.Compiled(f, compile=3), "compiler"),
        (lambda: li.nn.WarmStart(devic="cpu"), "device"),
        (lambda: li.ode.odeint(lambda t, y: y, S0, torch.linspace(0, 1, 5), metod="rk4"), "method"),
    ],
    ids=["Auto", "Implicit", "Coarse", "SolveOptions", "start", "sequential", "Compiled", "WarmStart", "odeint"],
)
def test_the_nearest_spelling_is_suggested(build, known):
    with pytest.raises(TypeError, match=f"Did you mean `{known}`"):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: li.Jacobi(3), r"`Jacobi` takes no arguments, got 1. Type `Jacobi\(\)`"),
        (lambda: li.Unroll(li.Newton()), r"`Unroll` takes no arguments"),
        (lambda: li.Damped(li.Newton(), 0.1, 3), r"`Damped` takes 2 argument.* got 3. It takes: method, k\."),
        (
            lambda: li.Auto((li.Newton(),), 0.1, None, 7),
            r"`Auto` takes 3 argument.* got 4. It takes: contenders",
        ),
        (lambda: li.Coarse(2, f, 3), r"`Coarse` takes 2 argument.* got 3. It takes: stride, step"),
        (lambda: li.Compiled(f, torch.compile, 3), r"`Compiled` takes 2 argument.* It takes: f, compiler"),
    ],
)
def test_too_many_arguments_are_counted_as_they_were_typed(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_an_abstract_method_that_is_missing_is_named():
    class Own(li.TransitionApproximation):
        pass

    class Rule(li.AbstractRule):
        def init(self, progress):
            return None

    with pytest.raises(TypeError, match=r"`Own` must define `transition\(self, lin\)` before it can be used"):
        Own()
    with pytest.raises(TypeError, match=r"`Rule` must define `holds\(self, progress, carry\)`"):
        Rule()


def test_unravel_says_how_wide_its_tensors_are():
    _, unravel = li.ravel((torch.zeros(2), torch.zeros(3, 1)))
    with pytest.raises(ValueError, match=r"end with D = 5, .* got \(9, 4\)"):
        unravel(torch.zeros(9, 4))


def test_a_rule_whose_answer_holds_no_numbers_is_told_so():
    with pytest.raises(TypeError, match="on meta, which holds no numbers"):
        li.solve(f, S0, U, stop=lambda progress: progress.residual.to("meta") < 1)


@pytest.mark.parametrize("sequence", [2, -1, (0, 0), "x", 1.5, None, True, torch.tensor(0)], ids=repr)
def test_pictures_name_the_sequences_that_there_are(sequence):
    solution, comparison = li.solve(f, S0, U, record=True), li.compare(f, S0, U, [li.Newton()])
    report = li.diagnostics.report(solution)
    for picture, made in (
        (li.diagnostics.convergence_map, solution),
        (li.diagnostics.comparison_picture, comparison),
        (li.diagnostics.report_picture, report),
    ):
        with pytest.raises(ValueError, match="`sequence` must be a whole number from 0 to 1"):
            picture(made, sequence)
    assert li.diagnostics.convergence_map(solution, 1)
    with pytest.raises(TypeError, match="`solution` must be an instance of Solution"):
        li.diagnostics.convergence_map(comparison)


def test_a_wrapped_method_that_is_no_method_is_told_so():
    for build in lambda m: li.Damped(m, 0.1), lambda m: li.Clipped(m, 1.0), lambda m: li.Then(m, li.Newton(), 2):
        with pytest.raises(TypeError, match=r"Type `Newton\(\)`"):
            build(li.Newton)
        with pytest.raises(TypeError, match="a method that chooses a transition, got 3"):
            build(3)
    for wrong in lambda: li.Damped(li.Newton(), 1.5), lambda: li.Clipped(li.Newton(), -1.0):
        with pytest.raises(ValueError, match=r"must (lie|be a number)"):
            wrong()
    with pytest.raises(ValueError, match="`iterations` must be a whole number"):
        li.Then(li.Jacobi(), li.Newton(), 0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`size` must be a whole number, 1 or more"):
        li.BlockNewton(0)
    with pytest.raises(ValueError, match="`probes` must be a whole number, 1 or more"):
        li.Hutchinson(0)
    with pytest.raises(ValueError, match="multiple of `size`, but D = 3"):
        li.solve(f, S0, U, li.BlockNewton(2))


def test_a_failed_solve_carries_its_states_and_says_what_to_try():
    arguments = (lambda s, u: torch.sin(3 * s) + u, S0, torch.randn(50, 2, 3))
    with pytest.raises(li.SolveError) as caught:
        li.solve(*arguments, li.Jacobi(), max_iters=3)
    message, solution = str(caught.value), caught.value.solution
    for advice in (
        "max_iters=3",
        "li.TrustRegion(",
        "li.Then(li.Jacobi()",
        "li.Damped(",
        "window=",
        "throw=False",
        "li.sequential(f, s0",
    ):
        assert advice in message
    assert "2 of 2 sequence" in message
    assert solution.result.tolist() == [li.Result.MAX_ITERS] * 2
    torch.testing.assert_close(solution.states[:3], li.sequential(*arguments)[:3])
    quiet = li.solve(*arguments, li.Jacobi(), max_iters=3, throw=False)
    assert torch.equal(quiet.states, solution.states)
    assert not quiet.converged
    assert "MAX_ITERS" in repr(quiet)
    # The way out: go on from where it ended.
    assert li.solve(*arguments, li.Jacobi(), guess=quiet.states).converged


def test_plot_without_history_says_what_to_type():
    with pytest.raises(ValueError, match="record=True"):
        li.diagnostics.convergence_map(li.solve(f, S0, U))


@pytest.mark.parametrize(
    "run",
    [
        lambda u: li.solve(f, S0, u).states,
        lambda u: li.start(f, S0, u).states,
        lambda u: li.verify(f, S0, u).solution.states,
        lambda u: li.compare(f, S0, u, [li.Newton()]).truth,
        lambda u: li.scan(lambda s, u: (f(s, u), None), S0, u)[0],
    ],
)
def test_vmap_over_a_solve_is_refused_in_words(run):
    with pytest.raises(RuntimeError) as caught:
        torch.vmap(run)(U[None])
    assert any("Put the dimension that is mapped over into the batch" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("spoil", ["states", "inputs", "s0"])
def test_an_error_estimate_of_other_numbers_is_refused(spoil):
    s0, u = S0.clone(), U.clone()
    solution = li.solve(f, s0, u)
    assert solution.error_estimate().abs().max() < 1e-4  # of states to 1e-5, of which errors at most double
    {"states": solution.states, "inputs": u, "s0": s0}[spoil].zero_().add_(1)
    with pytest.raises(ValueError, match="have been written into since the solve"):
        solution.error_estimate()
