"""Several ranks that share the rows of a round find the samples of one process."""

import pytest
import torch
from ranks import on_ranks

pytest.importorskip("diffusers")

from shared_sampling import sampled, shared_samples

import lds_iter as li


def test_ranks_share_the_rows_of_a_round():
    alone = [sampled(), sampled(), sampled(method=li.Newton())]
    for found, told in on_ranks(2, shared_samples):
        for ours, theirs in zip(found, alone, strict=True):
            # Batches of another size are summed in another order; a trajectory carries that on.
            torch.testing.assert_close(ours["trajectory"], theirs["trajectory"], rtol=1e-10, atol=1e-10)
            assert ours["rounds"] == theirs["rounds"]
        # Half of the rows each, rounded up in every round and check, of which there are fewer than rows.
        assert found[0]["rows"] < 0.7 * alone[0]["rows"]
        assert "The ranks of `mesh` evaluate different images" in told
