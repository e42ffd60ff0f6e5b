"""Real text that every Python carries, as characters: the language reference behind `help("topics")`.

`pydoc_data.topics` is part of the standard library (PSF licence), 460,000 characters in Python 3.11. It differs a
little between versions of Python, so the alphabet is fixed: printable ASCII and the newline.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
HELD_OUT = 0.1
"""The fraction of the topics, counted from the end of the alphabet, that no training sees."""


def topics() -> tuple[str, str]:
    """The text to train on and the held-out text."""
    from pydoc_data.topics import topics as entries

    names = sorted(entries)
    split = len(names) - max(1, round(HELD_OUT * len(names)))
    training, held_out = ("\n".join(entries[name] for name in part) for part in (names[:split], names[split:]))
    return training, held_out


def encode(text: str) -> Tensor:
    """Characters to numbers, `(len(text),)`, int64; typographic quotes become plain, what is unknown a space."""
    known = {character: number for number, character in enumerate(ALPHABET)}
    known |= dict.fromkeys("“”", known['"']) | dict.fromkeys("‘’", known["'"])
    return torch.tensor([known.get(character, known[" "]) for character in text], dtype=torch.int64, device="cpu")


def decode(tokens: Tensor) -> str:
    """Numbers to characters."""
    return "".join(ALPHABET[number] for number in tokens.tolist())


def bigram_loss(training: Tensor, held_out: Tensor) -> float:
    """Cross-entropy in nats per character of a bigram model, add-one smoothed: what a language model has to beat."""
    size = len(ALPHABET)
    counts = torch.bincount(training[:-1] * size + training[1:], minlength=size * size).view(size, size) + 1.0
    logs = (counts / counts.sum(1, keepdim=True)).log()
    return -float(logs[held_out[:-1], held_out[1:]].mean())
