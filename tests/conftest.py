"""One thread, one seed, and a Hypothesis profile without wall-clock deadlines."""

import os
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # for fixtures of wider scope, which come before the one below
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported: kernels then run on the CPU
hypothesis.settings.register_profile(
    "lds_iter",
    deadline=None,
    max_examples=25,
    derandomize=True,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("lds_iter"), max_examples=5)
hypothesis.settings.load_profile("lds_iter")


def pytest_sessionstart(session):
    """Before several processes start, each of which would compile every kernel: compile each once, side by side."""
    processes = session.config.getoption("numprocesses", None)
    if processes and not hasattr(session.config, "workerinput"):
        from lds_iter.kernels.cpu import build  # here, for the tests of a worker begin without the library

        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(build.load_kernels, (path.stem for path in build.HERE.glob("*.cpp"))))


@pytest.fixture(autouse=True)
def _one_thread_one_seed():
    """Before every test: a command line or an imported package may have set another number of threads."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
