"""An error inside of a user's function names that function, in the words of the call that took it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import lds_iter as li


class Failing:
    """Calls a function, and raises from a given call on."""

    def __init__(self, function: Callable[..., Any], after: int) -> None:
        self.function, self.left = function, after

    def __call__(self, *given: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("mine")
        return self.function(*given)


def odeint(function: Callable[..., Any]) -> Any:
    return li.ode.odeint(function, torch.ones(4), torch.linspace(0, 1, 10), method="rk4")


def scan(function: Callable[..., Any]) -> Any:
    return li.scan(function, torch.zeros(4), torch.ones(10, 4))


def sample(function: Callable[..., Any]) -> Any:
    generator = torch.Generator().manual_seed(0)
    return li.mcmc.sample(li.mcmc.mala(function, 0.1), torch.zeros(4), 10, generator=generator)


def recurrent(function: Callable[..., Any]) -> Any:
    return li.nn.Recurrent(function)(torch.ones(10, 2, 4), torch.zeros(2, 4))


class Block(torch.nn.Module):
    """A block of a network with weights, whose function is given."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.weight, self.function = torch.nn.Parameter(torch.ones(3)), function

    def forward(self, hidden: Tensor) -> Tensor:
        return self.function(hidden * self.weight)


def stack(function: Callable[..., Any]) -> Any:
    return li.depth.stack([Block(function) for _ in range(4)], torch.ones(1, 5, 3)).solve()


def sampler(function: Callable[..., Any]) -> Any:
    scheduler = DDIMScheduler(clip_sample=False)
    return li.diffusion.ParallelSampler(function, scheduler)(torch.ones(1, 3, 4, 4), num_inference_steps=10)


FRONT_ENDS = [
    (odeint, lambda t, y: -y, "`func(t, y)`"),
    (scan, lambda carry, x: (0.5 * carry + x, carry), "`step`"),
    (sample, lambda x: -x.square().sum(-1), "`logdensity`"),
    (stack, torch.tanh, "a block"),
    (sampler, lambda x, t: 0.1 * x, "the network"),
    (recurrent, lambda x, state: torch.tanh(x - state), "`cell(x, state)`"),
]


def notes_on(call: Callable[[], object]) -> list[str]:
    with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
        call()
    return caught.value.__notes__


@pytest.mark.parametrize("after", [0, 2, 4])
@pytest.mark.parametrize(
    ("front_end", "function", "name"), FRONT_ENDS, ids=lambda value: getattr(value, "__name__", "")
)
def test_error_names_the_users_function(front_end, function, name, after):
    front_end(function)
    notes = notes_on(lambda: front_end(Failing(function, after)))
    assert notes[0].startswith(f"This came from {name}, called with")
    assert not any("`f`" in note or "li.fold" in note for note in notes)


@pytest.mark.parametrize(
    ("front_end", "answer", "name"),
    [(odeint, lambda t, y: y[..., :2], "`func(t, y)`"), (scan, lambda carry, x: carry, "`step`")],
    ids=["odeint", "scan"],
)
def test_wrong_answer_names_the_users_function(front_end, answer, name):
    notes = notes_on(lambda: front_end(answer))
    assert notes[0].startswith(f"This came from {name}, called with")


def test_plain_recurrence_is_called_f():
    def f(s: Tensor, u: Tensor) -> Tensor:
        raise RuntimeError("mine")

    notes = notes_on(lambda: li.solve(f, torch.zeros(4), torch.ones(10, 4)))
    assert notes[0].startswith("This came from `f`, called with states (1, 4) and inputs (1, 4).")
