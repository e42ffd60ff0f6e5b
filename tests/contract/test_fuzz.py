"""A few hundred of the fuzzer's cases; `make fuzz` runs a hundred thousand."""

import pytest
from fuzz.running import run_seed

CASES, STRETCH = 400, 25


@pytest.mark.parametrize("first", range(0, CASES, STRETCH))
def test_random_cases_keep_the_laws(first):
    broken = [outcome for outcome in map(run_seed, range(first, first + STRETCH)) if outcome.broken]
    assert not broken, "\n".join(map(str, broken))
