"""A GRU in JAX: `jax.lax.scan`, jitted, which XLA compiles to one loop without a cost per operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.peers.base import AbstractPeer, Prepared
from bench.peers.jax_arrays import from_jax, reason, to_jax
from bench.peers.problems import GRUProblem

Parameters = tuple[Any, Any, Any, Any]
"""In the order of `torch.nn.GRU.parameters()`: weight_ih, weight_hh, bias_ih, bias_hh."""


def gates(jax: Any, parameters: Parameters, h: Any, u: Any) -> tuple[Any, ...]:
    """`r`, `z`, `n` and the recurrent part `q` of `n`, from states and pre-activations of any leading dimensions."""
    _, weight, _, bias = parameters
    qr, qz, q = jax.numpy.split(h @ weight.T + bias, 3, -1)
    ur, uz, un = jax.numpy.split(u, 3, -1)
    r, z = jax.nn.sigmoid(ur + qr), jax.nn.sigmoid(uz + qz)
    return r, z, jax.numpy.tanh(un + r * q), q


def cell(jax: Any, parameters: Parameters, h: Any, u: Any) -> Any:
    """One step."""
    _, z, n, _ = gates(jax, parameters, h, u)
    return n + z * (h - n)


def prepared(
    jax: Any, states: Callable[[Parameters, Any], tuple[Any, Any]], problem: GRUProblem, *, iterates: bool
) -> Prepared:
    """Jit `states(parameters, u) -> (states, iterations)` with the input's projection; in training its gradient."""
    parameters = tuple(to_jax(parameter) for parameter in problem.module.parameters())
    x, weights = to_jax(problem.x), to_jax(problem.weights)

    def forward(parameters: Parameters, x: Any) -> tuple[Any, Any]:
        return states(parameters, x @ parameters[0].T + parameters[2])

    def loss(parameters: Parameters, x: Any) -> tuple[Any, Any]:
        found, iterations = forward(parameters, x)
        return (found * weights).mean(), (found, iterations)

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    evaluate = jax.jit(forward)
    counts: list[Any] = [0]

    def run() -> tuple[Any, ...]:
        if problem.training:
            gradients, (found, counts[0]) = jax.block_until_ready(gradient(parameters, x))
            return (found, *gradients)
        found, counts[0] = jax.block_until_ready(evaluate(parameters, x))
        return (found,)

    return Prepared(run, from_jax, lambda: int(counts[0]) if iterates else None, compiles=True)


class JaxGRU(AbstractPeer[GRUProblem]):
    """The sequential loop, compiled."""

    name = "jax.lax.scan, jitted"
    package = "jax"

    def available(self, problem: GRUProblem) -> str:
        return reason(problem.device)

    def prepare(self, problem: GRUProblem) -> Prepared:
        import jax  # pyright: ignore[reportMissingImports]

        def states(parameters: Parameters, u: Any) -> tuple[Any, Any]:
            def step(h: Any, row: Any) -> tuple[Any, Any]:
                h = cell(jax, parameters, h, row)
                return h, h

            return jax.lax.scan(step, jax.numpy.zeros((problem.batch, problem.width)), u)[1], 0

        return prepared(jax, states, problem, iterates=False)
