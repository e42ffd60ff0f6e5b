"""The output class of `parallel_generate`; imports transformers, so it is imported only where that is in use."""

from __future__ import annotations

from dataclasses import dataclass

from transformers.generation.utils import GenerateDecoderOnlyOutput


@dataclass
class ParallelGenerateOutput(GenerateDecoderOnlyOutput):
    """What transformers' `generate` returns, and the work.

    Attributes:
        passes: calls of the model, one after the other, the one over the prompt included.
        evaluated: tokens that the model read in them, of one sequence.
    """

    passes: int | None = None
    evaluated: int | None = None
