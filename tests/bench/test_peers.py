"""The peers of the bench: reasons, gates and tables without them; their answers where they are installed."""

import dataclasses

import pytest
import torch

import lds_iter as li
from bench.peers import base, gradient, jax_arrays, page
from bench.peers.__main__ import PEERS, PROBLEMS
from bench.peers.accelerated_scan import AcceleratedScan
from bench.peers.base import AbstractPeer, Prepared
from bench.peers.compiled_loop import CHUNK, steps
from bench.peers.flashrnn import FlashRNN
from bench.peers.measure import LONG, errors, measure
from bench.peers.ours import OurGRU, OurODE, OurScan
from bench.peers.problems import STEPS, GRUProblem, ODEProblem, ScanProblem
from bench.peers.torch_gru import TorchGRU
from bench.peers.torch_scan import TorchScan
from bench.peers.torchdeq import TorchDEQ

SMALL = [GRUProblem(40, 4), GRUProblem(40, 4, training=True), ScanProblem(40, 3), ODEProblem(40, "rk4")]


class Wrong(AbstractPeer[GRUProblem]):
    """States that are off by one hundredth."""

    name = "wrong"
    package = "torch"

    def available(self, problem):
        return ""

    def prepare(self, problem):
        return Prepared(lambda: tuple(x + 0.01 for x in problem.reference()), lambda found: found)


class Raises(Wrong):
    name = "raises"

    def prepare(self, problem):
        raise RuntimeError("no kernel\nmore")


class Missing(Wrong):
    name = "missing"

    def available(self, problem):
        return base.not_installed("a_package_that_nobody_has")


@pytest.mark.parametrize("peer", [OurGRU(li.QuasiNewton()), OurGRU(li.Newton()), TorchGRU()])
@pytest.mark.parametrize("training", [False, True])
def test_ours_passes_the_gate_on_a_gru(peer, training):
    row = measure(GRUProblem(60, 4, 2, training), [peer], rounds=1)["rows"][0]
    assert row["state"] == "timed"
    assert row["times"] == 1
    assert (row["iterations"] is None) == isinstance(peer, TorchGRU)


def test_scans_pass_the_gate():
    rows = measure(ScanProblem(130, 3, 2), [OurScan(), TorchScan(), AcceleratedScan()], rounds=1)["rows"]
    assert [row["state"] for row in rows] == ["timed", "timed", "has kernels for CUDA devices only"]


@pytest.mark.parametrize("step", STEPS)
def test_ours_passes_the_gate_on_an_ode(step):
    row = measure(ODEProblem(60, step, batch=2), [OurODE()], rounds=1)["rows"][0]
    assert row["state"] == "timed"
    assert row["iterations"] >= 2


def test_a_peer_that_is_wrong_raises_or_is_missing_gets_a_reason_and_no_time():
    table = measure(GRUProblem(30, 2), [OurGRU(), Wrong(), Raises(), Missing()], rounds=1)
    states = {row["peer"]: row["state"] for row in table["rows"]}
    assert states["wrong"] == "failed the gate"
    assert states["raises"] == "raised RuntimeError: no kernel"
    assert states["missing"] == "not installed: `pip install a_package_that_nobody_has`"
    assert ["ms" in row for row in table["rows"]] == [True, False, False, False]
    text = page.rows(table)
    assert text.count("\n| `") == 1
    assert "- `wrong`: failed the gate: error 1e-02." in text
    assert "- `missing`: not installed" in text


def test_the_gate_refuses_nan_and_wrong_gradients():
    right, off = (torch.ones(3), torch.ones(2)), (torch.ones(3), 1.01 * torch.ones(2))
    assert errors(right, right) == (0.0, 0.0)
    assert errors(off, right)[1] == pytest.approx(0.01, rel=1e-5)  # float32
    assert not errors((torch.full((3,), torch.nan),), right[:1])[0] < 1


@pytest.mark.parametrize("problem", SMALL, ids=lambda problem: type(problem).__name__)
def test_every_peer_says_why_not_or_answers(problem):
    """With none of the extra `peers` installed this still runs ours and torch's own; with it, everything."""
    peers = [peer for peer in PEERS[type(problem)] if not peer.name.startswith("torch.compile")]  # a minute of g++
    for row in measure(problem, peers, rounds=1)["rows"]:
        known = ("not installed", "has kernels for CUDA", "its adjoint by the diagonal", "does not compute")
        assert row["state"] == "timed" or row["state"].startswith(known), row


def test_the_chunk_that_is_compiled_is_a_gru():
    problem = GRUProblem(CHUNK, 5, 2)
    weight_ih, weight, bias_ih, bias = problem.module.parameters()
    found = steps(torch.zeros(2, 5), torch.nn.functional.linear(problem.x, weight_ih, bias_ih), weight, bias)
    torch.testing.assert_close(found.detach(), problem.reference()[0])


def test_the_gradient_of_torch_s_operator_is_wrong_in_a_and_ours_is_not():
    rows = {row["scan"]: row for row in gradient.compare()}
    ours, operator = rows["lds_iter.linear_scan"], rows["torch associative_scan, the operator of pointwise"]
    assert max(ours["error_a"], ours["error_b"]) < 1e-12  # float64, 200 steps
    assert operator["error_a"] > 0.1
    text = page.gradients(list(rows.values()))
    assert text.count("\n| `") == len(rows) == 3


def test_reasons_of_peers_that_need_a_gpu():
    assert base.needs_cuda("cuda:0") == ""
    assert "CUDA" in base.needs_cuda("cpu")
    assert "CUDA" in FlashRNN().available(SMALL[0])
    assert base.not_installed("torch") == ""
    assert jax_arrays.reason("cuda") != ""  # neither the tests' machine nor its JAX has one
    assert "64 x 64" in OurGRU(li.Newton()).available(GRUProblem(10, 64))


@pytest.mark.parametrize("training", [False, True])
def test_flashrnn_orders_its_gates_as_we_say(training):
    if base.not_installed("flashrnn"):
        pytest.skip("flashrnn is not installed; its own reference on the CPU is what this compares with")
    problem = GRUProblem(20, 4, 2, training)
    prepared = FlashRNN("vanilla").prepare(problem)
    error, gradient_error = errors(prepared.read(prepared.run()), problem.reference())
    assert error < 1e-6  # float32, 20 contracting steps
    assert gradient_error < 1e-5


def test_the_section_names_every_table_and_version():
    tables = [measure(problem, PEERS[type(problem)][:1], rounds=1) for problem in SMALL]
    machine = {"device": "d", "threads": 1, "python": "p"}
    results = {"lds_iter": machine, "residual": 1e-5, "rounds": 1, "long": LONG, "tables": tables, "gradients": []}
    text = page.section(results)
    assert [text.count(f"\n### {title}\n") for title in page.TITLES.values()] == [1, 1, 1]
    assert "forward and backward" in text
    assert "`rk4`, dt = 0.01" in text
    assert f"lds-iter {li.__version__}" in text


def test_problems_and_peers_fit_together():
    for problems in PROBLEMS.values():
        assert all(type(problem) in PEERS and dataclasses.is_dataclass(problem) for problem in problems)
    for peers in PEERS.values():
        assert len({peer.name for peer in peers}) == len(peers)
    assert {peer.solver for peer in PEERS[GRUProblem] if isinstance(peer, TorchDEQ)} == {
        "fixed_point_iter",
        "anderson",
        "broyden",
    }
