"""Solves of a small network, by one process or shared by several, for tests that compare them."""

import torch

import lds_iter as li

LENGTH, WIDTH, BATCH = 37, 3, 2


def network(dtype):
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) * 0.7).to(dtype)
    inputs = torch.randn(LENGTH, BATCH, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    return weight, inputs, torch.full((BATCH, WIDTH), 0.1, dtype=dtype)


class Network:
    """`tanh(s W + u)` with its Jacobian in closed form: forward mode would first import torch's compiler, for seconds,
    in every process."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, s, u):
        return torch.tanh(s @ self.weight + u)

    def linearize(self, s, u):
        value = self(s, u)
        return li.StructuredDerivatives(value, li.Dense((1 - value**2).unsqueeze(-1) * self.weight.mT))


METHODS = {
    "newton": li.Newton(),
    "quasi": li.QuasiNewton(),
    "hutchinson": li.Clipped(li.QuasiNewton(li.Hutchinson(2)), 1.0),
    "picard": li.Damped(li.Picard(), 0.5),
    "jacobi": li.Jacobi(),
    "chord": li.Chord(li.Newton(), 2),
    "then": li.Then(li.Jacobi(), li.Newton(), 3),
    "switch": li.Switch(li.Jacobi(), li.Newton(), li.Below(0.1)),
    "trust": li.TrustRegion(li.Newton()),
    "filter": li.LevenbergMarquardt(10.0),
    "smoother": li.LevenbergMarquardt(10.0, li.Newton(), li.Smoother()),
    "trusted": li.TrustRegion(li.LevenbergMarquardt(1.0, li.QuasiNewton(), li.Smoother())),
    "low": li.LowPrecision(li.Newton(), torch.float32),
}


def solved(method, window, dtype, sizes=None, group=None):
    """A solve and its backward pass: by one process, or by the ranks of a group, which hold `sizes` time steps."""
    weight, inputs, s0 = network(dtype)
    weight.requires_grad_(), s0.requires_grad_()
    rows = slice(0, LENGTH)
    if group is not None:
        first = sum(sizes[: group.rank()])
        rows = slice(first, first + sizes[group.rank()])
    u = inputs[rows].clone().requires_grad_()
    loss_weights = torch.linspace(-1, 1, LENGTH, dtype=dtype)[rows, None, None]

    solution = li.solve(Network(weight), s0, u, method, window=window, record=True, throw=False, mesh=group)
    (solution.states * loss_weights).sum().backward()
    history = solution.history
    return {
        "states": solution.states.detach(),
        "iterations": solution.iterations,
        "result": solution.result,
        "residual": solution.residual,
        "evaluations": solution.evaluations,
        "resets": solution.resets,
        "map": history.residual_map,
        "accepted": history.accepted,
        "weight": weight.grad,
        "s0": torch.zeros_like(s0) if s0.grad is None else s0.grad,
        "inputs": u.grad,
        "adjoint": solution.adjoints[0].iterations,
        "estimate": solution.error_estimate(),
    }


def all_methods(group, sizes, windows, dtype, names):
    """The solves of several methods and windows."""
    return {(name, window): solved(METHODS[name], window, dtype, sizes, group) for name in names for window in windows}
