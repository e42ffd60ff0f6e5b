"""DEER written in JAX for this bench: the same iteration as ours in update form, the whole loop compiled by XLA.

    r_t = f(s_{t-1}, u_t) - s_t        d_t = A_t d_{t-1} + r_t        s += d        until max |r| <= RESIDUAL

`A` is the Jacobian of the GRU (Newton) or its diagonal (quasi-Newton), both in closed form as in `lds_iter.nn.gru`;
the scan is `jax.lax.associative_scan`. The gradient is implicit: one scan backwards with the transposed Jacobians,
exact for Newton; quasi-Newton's would need iterations of its own, so it runs forward only.
"""

from __future__ import annotations

from typing import Any

from bench.peers.base import AbstractPeer, Prepared
from bench.peers.jax_arrays import reason
from bench.peers.jax_gru import Parameters, cell, gates, prepared
from bench.peers.problems import LIMIT, RESIDUAL, GRUProblem


def slopes(jax: Any, parameters: Parameters, h: Any, u: Any) -> tuple[Any, ...]:
    """The value, `z` and `a_r, a_z, a_n` of the closed form `J = diag(z) + sum_k diag(a_k) W_k`."""
    r, z, n, q = gates(jax, parameters, h, u)
    slope = (1 - z) * (1 - n * n)
    return n + z * (h - n), z, (slope * q * r * (1 - r), (h - n) * z * (1 - z), slope * r)


class Dense:
    """Newton: full Jacobians, `(T, batch, D, D)`."""

    @staticmethod
    def linearize(jax: Any, parameters: Parameters, h: Any, u: Any) -> tuple[Any, Any]:
        value, z, terms = slopes(jax, parameters, h, u)
        weights = jax.numpy.split(parameters[1], 3, 0)
        jacobian = z[..., None] * jax.numpy.eye(h.shape[-1])
        return value, jacobian + sum(a[..., None] * w for a, w in zip(terms, weights, strict=True))

    @staticmethod
    def compose(earlier: Any, later: Any) -> Any:
        return later[0] @ earlier[0], (later[0] @ earlier[1][..., None])[..., 0] + later[1]


class DiagonalOnly:
    """Quasi-Newton: the diagonal of the Jacobian, `(T, batch, D)`."""

    @staticmethod
    def linearize(jax: Any, parameters: Parameters, h: Any, u: Any) -> tuple[Any, Any]:
        value, z, terms = slopes(jax, parameters, h, u)
        weights = jax.numpy.split(parameters[1], 3, 0)
        return value, z + sum(a * jax.numpy.diagonal(w) for a, w in zip(terms, weights, strict=True))

    @staticmethod
    def compose(earlier: Any, later: Any) -> Any:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def shifted(jax: Any, states: Any) -> Any:
    """The states before: zero first."""
    return jax.numpy.concatenate([jax.numpy.zeros_like(states[:1]), states[:-1]])


def iterate(jax: Any, form: type[Dense] | type[DiagonalOnly], parameters: Parameters, u: Any, width: int) -> Any:
    """States and the number of updates; the linearization at the last states is made but not used, as in ours."""

    def still_open(carry: Any) -> Any:
        states, value, _, count = carry
        return (jax.numpy.abs(value - states).max() > RESIDUAL) & (count < LIMIT)

    def update(carry: Any) -> Any:
        states, value, transition, count = carry
        states = states + jax.lax.associative_scan(form.compose, (transition, value - states))[1]
        return states, *form.linearize(jax, parameters, shifted(jax, states), u), count + 1

    zeros = jax.numpy.zeros((*u.shape[:-1], width))
    start = zeros, *form.linearize(jax, parameters, zeros, u), 0
    states, _, _, count = jax.lax.while_loop(still_open, update, start)
    return states, count


def implicit(jax: Any, problem: GRUProblem) -> Any:
    """`states(parameters, u)` by Newton's method, with its gradient."""

    @jax.custom_vjp
    def states(parameters: Parameters, u: Any) -> tuple[Any, Any]:
        return iterate(jax, Dense, parameters, u, problem.width)

    def forward(parameters: Parameters, u: Any) -> tuple[Any, Any]:
        found = states(parameters, u)
        return found, (parameters, u, found[0])

    def backward(saved: Any, cotangents: Any) -> tuple[Any, Any]:
        parameters, u, found = saved
        before = shifted(jax, found)
        _, jacobian = Dense.linearize(jax, parameters, before, u)
        # l_t = J_{t+1}^T l_{t+1} + g_t, backwards in time; nothing follows the last step.
        transposed = jax.numpy.swapaxes(jacobian, -1, -2)
        later = jax.numpy.concatenate([transposed[1:], jax.numpy.zeros_like(transposed[:1])])
        adjoint = jax.lax.associative_scan(Dense.compose, (later, cotangents[0]), reverse=True)[1]
        return jax.vjp(lambda p, v: cell(jax, p, before, v), parameters, u)[1](adjoint)

    states.defvjp(forward, backward)
    return states


class JaxNewton(AbstractPeer[GRUProblem]):
    """DEER."""

    name = "JAX DEER (Newton)"
    package = "jax"

    def available(self, problem: GRUProblem) -> str:
        if problem.width > 32:
            return f"Jacobians of {problem.width} x {problem.width} for every step"
        return reason(problem.device)

    def prepare(self, problem: GRUProblem) -> Prepared:
        import jax  # pyright: ignore[reportMissingImports]

        return prepared(jax, implicit(jax, problem), problem, iterates=True)


class JaxQuasiNewton(AbstractPeer[GRUProblem]):
    """Quasi-DEER, forward only."""

    name = "JAX quasi-DEER"
    package = "jax"

    def available(self, problem: GRUProblem) -> str:
        return "its adjoint by the diagonal alone is wrong" if problem.training else reason(problem.device)

    def prepare(self, problem: GRUProblem) -> Prepared:
        import jax  # pyright: ignore[reportMissingImports]

        def states(parameters: Parameters, u: Any) -> tuple[Any, Any]:
            return iterate(jax, DiagonalOnly, parameters, u, problem.width)

        return prepared(jax, states, problem, iterates=True)
