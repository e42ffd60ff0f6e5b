"""BlackJAX and NumPyro on the same targets, on noise of their own: whole chains compiled by XLA, all chains at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from bench.mcmc.cases import Case
from bench.mcmc.contenders import AbstractContender, Drawn, timed
from lds_iter.mcmc.hmc import HMC
from lds_iter.mcmc.mala import MALA
from recipes.mcmc.problems import PARTS


def jax_in_double() -> Any:
    """JAX, in double precision, as the chains beside it."""
    import jax  # pyright: ignore[reportMissingImports]

    jax.config.update("jax_enable_x64", True)
    return jax


def target(case: Case) -> Callable[[Any], Any] | None:
    """The log density of a case in JAX, of one position; None for cases without."""
    name = case.name.split(",")[0]
    if name == "mixture":

        def mixture(x: Any) -> Any:
            jax = jax_in_double()
            return jax.scipy.special.logsumexp(-((x - PARTS.numpy()) ** 2).sum(-1) / 2)

        return mixture
    return (lambda x: -(x[0] ** 2) / 200 - (x[1] - 0.03 * (x[0] ** 2 - 100)) ** 2 / 2) if name == "banana" else None


def _reason(case: Case, module: str) -> str:
    if target(case) is None:
        return "has no Gibbs sampler of these conditionals"
    return "" if find_spec(module) else f"not installed: `pip install {module}`"


def _drawn(first: float, seconds: float, positions: Any, gradients: int) -> Drawn:
    """From `(chains, T, D)` of JAX."""
    states = torch.tensor(positions.__array__()).movedim(1, 0)
    return Drawn(states, None, seconds, first - seconds, None, gradients)


class BlackJAX(AbstractContender):
    """Its kernels in `lax.scan`, under `vmap` over the chains."""

    name, exact = "BlackJAX", False

    def missing(self, case: Case, chains: int) -> str:  # noqa: ARG002
        return _reason(case, "blackjax")

    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        import blackjax  # pyright: ignore[reportMissingImports]

        jax, logdensity, sampler = jax_in_double(), target(case), case.sampler
        start = jax.numpy.asarray(case.start(chains).numpy())
        if isinstance(sampler, MALA):
            kernel, gradients = blackjax.mala(logdensity, sampler.step_size), 1
        else:
            assert isinstance(sampler, HMC)
            mass = jax.numpy.ones(start.shape[-1])
            kernel, gradients = blackjax.hmc(logdensity, sampler.step_size, mass, sampler.num_steps), sampler.num_steps

        def chain(key: Any, x: Any) -> Any:
            def step(state: Any, key: Any) -> tuple[Any, Any]:
                state, _ = kernel.step(key, state)
                return state, state.position

            return jax.lax.scan(step, kernel.init(x), jax.random.split(key, moves))[1]  # pyright: ignore

        compiled, keys = jax.jit(jax.vmap(chain)), jax.random.split(jax.random.key(0), chains)
        run = lambda: jax.block_until_ready(compiled(keys, start))  # noqa: E731
        begin = time.perf_counter()
        run()
        first = time.perf_counter() - begin
        positions, seconds = timed(run)
        return _drawn(first, seconds, positions, gradients)


class NumPyro(AbstractContender):
    """Its HMC, vectorized over the chains. One leapfrog step of size sqrt(2 eps) is MALA's move."""

    name, exact = "NumPyro", False

    def missing(self, case: Case, chains: int) -> str:  # noqa: ARG002
        return _reason(case, "numpyro")

    def run(self, case: Case, chains: int, moves: int) -> Drawn:
        from numpyro import infer  # pyright: ignore[reportMissingImports]

        jax, logdensity, sampler = jax_in_double(), target(case), case.sampler
        assert logdensity is not None
        assert isinstance(sampler, MALA | HMC)
        steps = sampler.num_steps if isinstance(sampler, HMC) else 1
        size = sampler.step_size if isinstance(sampler, HMC) else (2 * sampler.step_size) ** 0.5
        kernel = infer.HMC(
            potential_fn=lambda x: -logdensity(x), step_size=size, num_steps=steps, trajectory_length=None,  # pyright: ignore
            adapt_step_size=False, adapt_mass_matrix=False,
        )  # fmt: skip
        start = jax.numpy.asarray(case.start(chains).numpy())
        start = start if chains > 1 else start[0]
        mcmc = infer.MCMC(kernel, num_warmup=0, num_samples=moves, num_chains=chains, chain_method="vectorized",
                          progress_bar=False)  # fmt: skip

        def run() -> Any:
            mcmc.run(jax.random.key(0), init_params=start)
            return jax.block_until_ready(mcmc.get_samples(group_by_chain=True))

        begin = time.perf_counter()
        run()
        first = time.perf_counter() - begin
        positions, seconds = timed(run)
        return _drawn(first, seconds, positions, steps)
