"""Trainings by several ranks follow that of one process: DDP and FSDP2, with the batch or time or both shared out."""

import pytest
import torch
from ranks import on_ranks
from shared_training import trained_alone, trained_by_ranks

import lds_iter as li


@pytest.mark.parametrize(
    ("shape", "kinds", "methods"),
    [
        ((2, 1), ["GRU"], [None, li.Newton()]),
        ((2, 2), ["GRU"], [None]),
        pytest.param((2, 1), ["LSTM", "cell"], [None, li.Newton()], marks=pytest.mark.slow),
        pytest.param((2, 2), ["LSTM", "cell"], [li.QuasiNewton()], marks=pytest.mark.slow),
    ],
)
def test_ranks_train_as_one_process(shape, kinds, methods):
    found = on_ranks(shape[0] * shape[1], trained_by_ranks, shape, kinds, methods)
    alone = {kind: trained_alone(kind) for kind in kinds}
    for rank in found:
        for (kind, *how), ours in rank.items():
            for name, theirs in alone[kind].items():

                def explained(text, case=(kind, *how, name)):
                    return f"{case}: {text}"

                # The solves converge to 1e-12; the sums over ranks are made in another order.
                torch.testing.assert_close(ours[name], theirs, rtol=1e-10, atol=1e-10, msg=explained)
