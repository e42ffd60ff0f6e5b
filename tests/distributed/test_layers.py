"""Layers whose time steps several ranks share: what one process finds, on every rank."""

import pytest
import torch
from ranks import on_ranks
from refused_layers import conveniences, refusals
from shared_layers import BATCH, CASES, FEATURES, WIDTH, run_layer, run_layers

ROUNDING = 1e-10
"""The solves converge to 1e-12, and a gradient sums hundreds of numbers in another order."""


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ((6, 5), tuple(CASES)),
        pytest.param((4, 0, 6, 1), tuple(CASES), marks=pytest.mark.slow),
        pytest.param((0, 0, 0, 11), ("gru", "two directions", "projection"), marks=pytest.mark.slow),
    ],
)
def test_layers_find_what_one_process_finds(sizes, names):
    found = on_ranks(len(sizes), run_layers, sizes, names)
    for name in names:
        alone, ranks = run_layer(name), [rank[name] for rank in found]

        def close(ours, theirs, what, name=name):
            torch.testing.assert_close(
                ours, theirs, rtol=ROUNDING, atol=ROUNDING, msg=lambda text: f"{name} {what}: {text}"
            )

        for place, whole in enumerate(alone["outputs"]):
            close(torch.cat([rank["outputs"][place] for rank in ranks]), whole, "outputs")
        close(torch.cat([rank["inputs"] for rank in ranks]), alone["inputs"], "gradient of the inputs")
        for kind in "parameters", "start":
            for place, whole in enumerate(alone[kind]):
                close(sum(rank[kind][place] for rank in ranks), whole, f"gradient, {kind}")
        for rank in ranks:
            close(rank["finals"], alone["finals"], "final states")
            assert rank["iterations"] == ranks[0]["iterations"]


TOLD = {  # by rank 0 and by rank 1, which is the one that differs
    "packed": (
        "Rank 1 of `mesh` has arguments that cannot work: TypeError: `mesh` has no packed",
        "`mesh` has no packed",
    ),
    "width": (
        "Rank 1 of `mesh` has arguments that cannot work: RuntimeError: input.size(-1)",
        "input.size(-1) must be",
    ),
    "empty batch": ("`input` must be a tensor (T, B, 3), this rank's time steps",) * 2,
    "no input": ("`input` must be a tensor (T, B, 3), this rank's time steps",) * 2,
    "batch": ("`batch` must be the same on every rank of `mesh`, got 2 on rank 0 and 1 on rank 1",) * 2,
    "no time": ("`input` has T = 0 time steps on every rank of `mesh`",) * 2,
    "nan": ("Rank 1 of `mesh` has arguments that cannot work: ValueError: `inputs[0]` cont", "`inputs[0]` contains"),
    "layer": ("`layer` must be the same on every rank of `mesh`, got GRU(3, 4, bias=False) on rank 0",) * 2,
    "budget": ("`GRU, layer 0` did not converge: 2 of 2 sequence(s)",) * 2,
    "traced": ("A layer with `mesh` cannot be traced",) * 2,
    "twice": ("The gradient of a layer with `mesh` cannot be differentiated again",) * 2,
    "cell": ("Rank 1 of `mesh` has arguments that cannot work: ValueError: `input` must end", "`input` must end"),
    "cell, no tensor": ("Rank 1 of `mesh` has arguments that cannot work: TypeError: `input` must", "`input` must be"),
    "auto": ("`mesh` needs one method for all ranks, got Auto",) * 2,
    "compiler": ("`mesh` runs iterations that talk to other ranks, which no compiled graph holds",) * 2,
    "mesh": ("`mesh` must have one dimension, that of time, got 2",) * 2,
    "no mesh": ("`mesh` must be a one-dimensional DeviceMesh",) * 2,
    "after all": ("(3, 2, 4)",) * 2,
}


def test_what_cannot_work_is_told_to_all_ranks_which_stay_in_step():
    for rank, found in enumerate(on_ranks(2, refusals)):
        assert list(found) == list(TOLD)
        assert [(case, rank, text) for case, text in found.items() if TOLD[case][rank] not in text] == []


def test_a_layer_with_a_mesh_is_copied_swapped_in_and_started_warm():
    torch.manual_seed(3)
    layer = torch.nn.GRU(FEATURES, WIDTH, dtype=torch.float64)
    output, final = layer(torch.randn(5, BATCH, FEATURES, dtype=torch.float64))
    found = on_ranks(2, conveniences)
    torch.testing.assert_close(torch.cat([rank["output"] for rank in found]), output.detach(), rtol=1e-10, atol=1e-10)
    for rank, rows in zip(found, (3, 2), strict=True):
        torch.testing.assert_close(rank["final"], final.detach(), rtol=1e-10, atol=1e-10)
        assert rank["same"]
        assert rank["again"] == [0, 0]
        assert rank["plan"] == "the ranks of `mesh` share the time steps"
        dtype, error = rank["half"]
        assert dtype == torch.bfloat16
        assert error < 0.02  # a few units of bfloat16, 0.004 near 1
        assert rank["solutions"] == (rows, BATCH, WIDTH)
