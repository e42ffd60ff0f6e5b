"""A recurrent-depth language model, small enough to train on a CPU and built so that depth can run in parallel.

    e   = prelude(tokens)                                what the tokens say; computed once
    h_r = core(h_{r-1}, e) = e + g * block(norm(h_{r-1} + e)),  h_0 = 0,  r = 1..R
    p   = softmax(coda(h_R))

The shape is Huginn's (Geiping et al., "Scaling up test-time compute with latent reasoning", 2025): a prelude, a core
that sees the input anew at every step, a coda. Three things make the core contract at its fixed point: the input is
injected at every step, so the state need not carry it; the norm keeps what the block sees at unit size; and the gain
`g` of the block's update starts small. Training adds a penalty on the ratio of successive steps (see `train`).

`embed`, `start`, `step` and `decode` are the four functions of `lds_iter.depth.RecurrentDepthModel`, by which
`lds_iter.depth` generates. The core is one block, so what a token's keys and values are made of is its state and its
`e`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lds_iter.depth import View
from recipes.devices import CPU
from recipes.files import reading, whole

WEIGHTS = Path(__file__).parent / "weights.safetensors"
CURE = "Take it from the repository again, or type: python -m recipes.recurrent_depth.train"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    vocabulary: int = 96
    width: int = 96
    heads: int = 4
    expansion: int = 3


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding of `x`, `(..., heads, L, head width)`, at `positions`, `(..., L)`."""
    half = x.shape[-1] // 2
    precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell positions above 256 apart
    frequency = 1e4 ** (-torch.arange(half, dtype=precise, device=x.device) / half)
    angle = (positions.to(precise).unsqueeze(-1) * frequency).unsqueeze(-3)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Block(nn.Module):
    """Attention, then a gated layer; returns the update, not the sum, of an input that is normalised already."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.width, shape.expansion * shape.width
        self.heads = shape.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of normalised inputs `(..., L, width)`: keys and values, each `(..., heads, L, head width)`."""
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.key_value(x).chunk(2, -1))
        return rotate(k, positions), v

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries `(..., heads, L, head width)`, scaled for the product with keys."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        return rotate(q, positions) * q.shape[-1] ** -0.5

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The update, given what the heads have read, `(..., heads, L, head width)`."""
        update = self.out(attended.transpose(-3, -2).flatten(-2))
        a, b = self.up(self.norm(x + update)).chunk(2, -1)
        return update + self.down(functional.silu(a) * b)

    def forward(self, x: Tensor, positions: Tensor, past: View | None = None) -> Tensor:
        """Causal self-attention: `(..., L, width)` at `positions` `(..., L)` to the update, the same shape.

        With `past`, the tokens read those in it too.
        """
        k, v = self.keys_values(x, positions)
        if past is None:
            mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).tril()
        else:
            mask = past.mask(x.shape[-2], x.device)
            k, v = past.update(k, v, 0)
        score = self.queries(x, positions) @ k.mT
        return self.rest(x, score.masked_fill(~mask, -torch.inf).softmax(-1) @ v)


class RecurrentDepth(nn.Module):
    """The model: see the module's docstring.

    Args:
        shape: its sizes.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        width = self.shape.width
        self.embedding = nn.Embedding(self.shape.vocabulary, width)
        self.first, self.core_block, self.last = (Block(self.shape) for _ in range(3))
        self.norm_first, self.norm_input, self.norm_core, self.norm_last, self.norm_out = (
            nn.RMSNorm(width, eps=1e-6) for _ in range(5)
        )
        self.gain = nn.Parameter(torch.full((width,), 0.5, device=self.embedding.weight.device))
        self.head = nn.Linear(width, self.shape.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)

    def embed(self, tokens: Tensor, positions: Tensor, past: View | None = None) -> Tensor:
        """What is injected at every step: tokens `(..., L)` to `(..., L, width)`."""
        x = self.embedding(tokens)
        return self.norm_input(x + self.first(self.norm_first(x), positions, past))

    def start(self, e: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """The state before the first step: zeros."""
        return torch.zeros_like(e)

    def step(self, h: Tensor, e: Tensor, positions: Tensor, past: View | None = None) -> Tensor:
        """One step of the core for all tokens: `(..., L, width)` to the same."""
        return e + self.gain * self.core_block(self.norm_core(h + e), positions, past)

    def decode(self, h: Tensor, positions: Tensor, past: View | None = None) -> Tensor:
        """Logits, `(..., L, vocabulary)`; a token's logits depend on the states of earlier ones too."""
        return self.head(self.norm_out(h + self.last(self.norm_last(h), positions, past)))

    def prelude(self, tokens: Tensor) -> Tensor:
        """`embed` of a whole sequence."""
        return self.embed(tokens, _positions(tokens))

    def core(self, h: Tensor, e: Tensor) -> Tensor:
        """`step` of a whole sequence."""
        return self.step(h, e, _positions(h[..., 0]))

    def coda(self, h: Tensor) -> Tensor:
        """`decode` of a whole sequence."""
        return self.decode(h, _positions(h[..., 0]))

    def forward(self, tokens: Tensor, depth: int = 16) -> Tensor:
        """Logits of all positions after `depth` steps of the core."""
        e = self.prelude(tokens)
        h = torch.zeros_like(e)
        for _ in range(depth):
            h = self.core(h, e)
        return self.coda(h)


def _positions(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[-1], device=tokens.device)


def save(model: RecurrentDepth, path: Path, about: dict[str, str]) -> None:
    """Half-precision weights, with the shape and what there is to say about them as metadata."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as fresh:
        save_file(weights, fresh, {"shape": json.dumps(asdict(model.shape)), **about})


def load(path: Path = WEIGHTS) -> RecurrentDepth:
    """The trained model in float32, for evaluation; its weights carry no gradient.

    Raises:
        BrokenFile: where the file is not whole, or of another model.
    """
    from safetensors import safe_open

    with reading(path, CURE), safe_open(path, "pt") as file:
        shape = Shape(**json.loads(file.metadata()["shape"]))
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        with CPU:
            model = RecurrentDepth(shape)
        model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def about(path: Path = WEIGHTS) -> dict[str, str]:
    """The metadata of saved weights: how they were trained, and to which losses."""
    from safetensors import safe_open

    with reading(path, CURE), safe_open(path, "pt") as file:
        return file.metadata()
