"""Warnings of torch about its own code do not reach the users of a solve."""

import subprocess
import sys

PROGRAM = """
import sys, warnings
import torch
script = torch.jit.script
def deprecated(*args, **kwargs):  # as torch 2.14 has it
    warnings.warn("`torch.jit.script` is deprecated. Please switch to `torch.compile`.", FutureWarning, stacklevel=2)
    return script(*args, **kwargs)
torch.jit.script = deprecated
warnings.simplefilter("error", FutureWarning)
if sys.argv[1] == "torch":
    torch.func.jvp(torch.sin, (torch.zeros(3),), (torch.ones(3),))
else:
    import lds_iter as li
    assert li.solve(lambda s, u: torch.tanh(0.5 * s + u), torch.zeros(3), torch.ones(20, 3), li.Newton()).converged
"""


def run(by: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for torch loads its forward mode once."""
    return subprocess.run([sys.executable, "-c", PROGRAM, by], capture_output=True, text=True, check=False, timeout=300)


def test_forward_mode_loads_without_a_warning():
    assert "FutureWarning" in run("torch").stderr  # so the program tests what it should
    done = run("solve")
    assert done.returncode == 0, done.stderr
