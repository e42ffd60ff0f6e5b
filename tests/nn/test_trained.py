"""Real trained networks through the drop-in layers with default options: right, whether solved or fallen back."""

import io
import json
import tarfile
import warnings
from importlib import metadata

import pytest
import torch

import lds_iter as li
from bench import trained
from bench.trained import CASES, LOADERS
from bench.trained.__main__ import JSON, PAGE, compare
from bench.trained.page import page
from bench.trained.pileup import pileup
from recipes.pretrained.networks import asset

INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
NEEDED = {"g2p-en", "medaka", "silero-vad", "resemblyzer", "pyannote-audio", "pyannote.audio"}
pytestmark = pytest.mark.skipif(
    len(NEEDED & INSTALLED) < len(NEEDED) - 1, reason="needs: pip install --no-deps -r requirements-assets.txt"
)

SLOW = {("medaka", 4_000), ("resemblyzer", 1_000)}


def test_trust_region_solves_what_the_default_leaves_to_torch():
    outcome = compare(trained.silero(300), 300, "li.TrustRegion(li.Newton())")
    assert not outcome.fell_back
    assert max(outcome.iterations) <= 40
    assert max(outcome.output, outcome.final) < 1e-3  # a residual of 1e-5, remembered for a hundred frames
    assert outcome.gradient < 1e-2


@pytest.mark.parametrize(
    ("name", "length"), [pytest.param(*case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
)
def test_layers_agree_with_torch(name, length):
    outcome = compare(LOADERS[name](length), length)
    # A solve stops at residuals of 1e-5 + 1e-5 |f| a row; these networks remember hundreds of rows, and Newton on
    # medaka's first layer turned that into 2.4e-4.
    assert outcome.output < 2e-3
    assert outcome.final < 2e-3
    assert outcome.gradient < 1e-2
    if outcome.fell_back:  # then both sides are torch's kernel
        assert outcome.output == outcome.final == outcome.gradient == 0
    else:
        assert max(outcome.residual) <= 1e-5 * (1 + 100)  # the largest cell
        assert max(outcome.iterations) <= 100


def test_falling_back_warns_once_and_says_what_to_type():
    network = trained.medaka(100)
    layer = li.nn.GRU(10, 128, num_layers=2, bidirectional=True, method=li.QuasiNewton(), max_iters=2)
    layer.load_state_dict(network.module.state_dict())
    with torch.no_grad(), pytest.warns(li.PerformanceWarning, match="did not converge in layer 0"):
        output = layer(network.x.unsqueeze(1))[0]
    assert torch.equal(output, network.module(network.x.unsqueeze(1))[0])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(network.x.unsqueeze(1))


def test_medaka_restores_the_simulated_genome():
    """Weights, gate order and features at once: wrong ones give noise."""
    length = 1_000
    features, truth = pileup(length)
    network = trained.medaka(length)
    assert torch.equal(network.x, features)
    with tarfile.open(asset("medaka", "r1041_e82_400bps_sup_v5.2.0_model_pt.tar.gz")) as archive:
        state = torch.load(
            io.BytesIO(archive.extractfile("model/weights.pt").read()), map_location="cpu", weights_only=True
        )
    output = network.module(features.unsqueeze(1))[0][:, 0]
    called = torch.nn.functional.linear(output, state["linear.weight"], state["linear.bias"]).argmax(-1)
    expected = torch.tensor(truth) + 1  # the labels are gap, A, C, G, T
    assert (called == expected).double().mean() > 0.995  # all of 4,000 were right
    raw = features[:, :4] + features[:, 4:8]
    plain = torch.where(raw.amax(-1) > 0.5, raw.argmax(-1) + 1, 0)
    assert (plain == expected).double().mean() > 0.9  # a pileup of the genome that is asked for


def test_pileup_is_counts_over_depth():
    features, truth = pileup(2_000)
    total, inserted = features.sum(-1), torch.tensor(truth) < 0
    torch.testing.assert_close(total[~inserted], torch.ones(int((~inserted).sum())))
    assert bool((total[inserted] > 0).all())
    assert bool((total[inserted] < 0.5).all())  # most reads insert nothing
    assert torch.equal(features[:500], pileup(500)[0])


def test_silero_hears_what_the_package_hears():
    """Frame by frame against the package's own TorchScript model, which carries its state itself."""
    frames, network = 60, trained.silero(60)
    whole = torch.jit.load(asset("silero-vad", "silero_vad.jit"), map_location="cpu")
    with torch.no_grad():
        sound = trained.recording(frames * trained.SILERO_FRAME).split(trained.SILERO_FRAME)
        expected = torch.stack([whole(frame[None], trained.RATE)[0, 0] for frame in sound])
        hidden = network.module(network.x.unsqueeze(1))[0]
        chance = whole._model.decoder.decoder(hidden.transpose(1, 2)).mean(-1)[:, 0]
    torch.testing.assert_close(chance, expected, rtol=0, atol=1e-5)  # float32 rounding; 6e-8 was measured


def test_resemblyzer_tells_the_speakers_apart():
    """On the turns of the conversation, as its annotation has them: same speaker nearer than the other one."""
    network = trained.resemblyzer(3_000)
    state = torch.load(asset("resemblyzer", "pretrained.pt"), map_location="cpu", weights_only=True)["model_state"]
    turns = [line.split() for line in asset("pyannote.audio", "sample/sample.rttm").read_text().splitlines()]
    voices, speakers = [], []
    for _, _, _, start, duration, _, _, speaker, *_ in turns:
        first, last = round(100 * float(start)), round(100 * (float(start) + float(duration)))
        if last - first >= 160:  # what the package gives the network at a time
            hidden = network.module(network.x[first:last].unsqueeze(1))[1][0][-1, 0]
            voice = torch.nn.functional.linear(hidden, state["linear.weight"], state["linear.bias"]).relu()
            voices.append(voice / voice.norm())
            speakers.append(speaker)
    alike = torch.stack(voices) @ torch.stack(voices).T
    same = torch.tensor([[a == b for b in speakers] for a in speakers])
    pairs = torch.ones_like(same).triu(1)
    assert len(set(speakers)) == 2
    assert alike[same & pairs].mean() > alike[~same & pairs].mean() + 0.1


def test_mel_spectrum_finds_a_tone():
    tone = 0.1 * torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / trained.RATE)
    bands = trained.mel_spectrum(tone)
    assert bands.shape == (101, 40)
    peak = bands[50].argmax()
    # Slaney's mel scale is linear up to 1 kHz, its 15th mel; the 40 bands divide the 45.2 mels up to 8 kHz.
    assert peak == round(15 / (45.245 / 41)) - 1


def test_recording_plays_again():
    once = trained.recording(480_000)
    assert torch.equal(trained.recording(480_100)[480_000:], once[:100])
    assert 0.1 < float(once.abs().max()) <= 1


def test_page_is_made_from_the_results():
    assert PAGE.read_text() == page(json.loads(JSON.read_text()))
