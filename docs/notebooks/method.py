# %% [markdown]
# # A method of your own
#
# A method answers one question: given `f` along the current guess of the trajectory, which
# matrices $A_t$ stand for its derivatives? The loop, the scan, the stopping test and the
# guarantee of at most T iterations are the library's. Here you write two methods, watch them
# converge, and test them.

# %%
import importlib.util
import subprocess
import sys

if (
    importlib.util.find_spec("lds_iter") is None
):  # opened elsewhere, as in Colab
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "git+{{ repo_url }}",
        ],
        check=True,
    )

# %% [markdown]
# ## A problem
#
# Pairs of coordinates turn, each pair by an angle of its own, and all of them are weakly coupled.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

import lds_iter as li

torch.manual_seed(0)
T, D = 2000, 8
angles = torch.linspace(0.3, 1.2, D // 2)
turns = torch.stack(
    [angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1
).view(-1, 2, 2)
turn = torch.block_diag(*turns)
weight = 0.9 * turn + 0.02 * torch.randn(D, D)
s0, inputs = torch.zeros(D), 0.5 * torch.randn(T, D)


def f(s, u):  # works on any number of leading dimensions
    return torch.tanh(s @ weight.T + u)


for method in li.Newton(), li.QuasiNewton(), li.Jacobi():
    count = int(li.solve(f, s0, inputs, method).iterations)
    print(f"{type(method).__name__:12} {count} iterations")

# %% [markdown]
# Newton takes few iterations, and each of them makes T matrices of D x D. The diagonal is cheap
# and misses the turning.
#
# ## A choice of A
#
# The turning couples neighbours in pairs, so take the 2x2 blocks on the diagonal. `lin` is `f`
# along the guess; its derivatives are computed when you ask for them.


# %%
@dataclass(frozen=True)
class Pairs(li.TransitionApproximation):
    """The 2x2 blocks of the Jacobian."""

    def transition(self, lin):
        return li.BlockDiagonal(lin.block_diagonal(2))


solution = li.solve(f, s0, inputs, Pairs())
loop = li.sequential(f, s0, inputs)
print(solution.converged, int(solution.iterations), "iterations")
print(
    "the loop's states to 1e-5:",
    torch.allclose(solution.states, loop, atol=1e-5),
)

# %% [markdown]
# That is all of it: the method works with windows, batches, warm starts and gradients, and nests
# in the library's wrappers.
#
# ## Watch it
#
# `record=True` keeps the residual of every time step at every iteration. Black is solved.

# %%
methods = li.Newton(), Pairs(), li.QuasiNewton()
figure, panels = plt.subplots(
    1, 3, figsize=(9, 2.8), sharey=True, layout="constrained"
)
for panel, method in zip(panels, methods, strict=True):
    solution = li.solve(f, s0, inputs, method, record=True)
    residual = solution.history.residual_map.clamp(1e-7, 1).log10()
    panel.imshow(
        residual[:40],
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        vmin=-7,
        vmax=0,
    )
    panel.set(
        title=f"{type(method).__name__}: {int(solution.iterations)}",
        xlabel="time step",
        ylim=(40, -0.5),
    )
panels[0].set_ylabel("iteration")
plt.show()

# %% [markdown]
# ## A method that remembers
#
# A `StatefulTransition` is given what it returned the last time, the *carry*. This one damps the
# blocks at first, and by half as much at every iteration.


# %%
@dataclass(frozen=True)
class Annealed(li.StatefulTransition):
    """Pairs, damped less and less."""

    def init(self, guess):
        return torch.full_like(
            guess[0, ..., 0], 0.4
        )  # one number for each sequence

    def choose(self, lin, carry):
        keep = (1 - carry).unsqueeze(-1).expand(*lin.residual.shape[:-1], 1)
        damped = keep * li.BlockDiagonal(lin.block_diagonal(2))
        return damped, lin.keep(carry / 2, carry)


print(int(li.solve(f, s0, inputs, Annealed()).iterations), "iterations")
print(
    int(
        li.solve(
            f, s0, inputs, li.Then(li.Jacobi(), Annealed(), 2), window=500
        ).iterations
    ),
    "in a window, after Jacobi",
)

# %% [markdown]
# ## Test it
#
# Whatever $A$ is, the solve ends at the loop's trajectory. So a mistake in a method shows in
# its count and not in its states. `li.testing.check_method` tries the method in windows and
# batches, in every wrapper and with gradients, and says which law is broken.

# %%
for method in Pairs(), Annealed():
    print(type(method).__name__, li.testing.check_method(method).passed)

# %% [markdown]
# ## Exercises
#
# 1. Change `0.02` to `0.2`. Which methods notice?
# 2. Write `Cheap`, which takes the blocks of the first time step for all of time. Is it worth its saving here?
# 3. Multiply `weight` by 1.5. Which of the methods still pays, and what does `li.TrustRegion(Pairs())` change?
