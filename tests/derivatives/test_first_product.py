"""The first forward-mode product of a process: what torch warns of and imports then is no trouble to users."""

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


INTERRUPTED = """
import signal, sys, torch, lds_iter as li
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
class Interrupt:  # Ctrl-C in the middle of importing what the compiler of torch needs
    def find_spec(self, name, path=None, target=None):
        if name == "sympy.printing":  # where it hurts most
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
def solve():  # whose derivative of tanh is torch's in Python
    return li.solve(lambda s, u: torch.tanh(0.5 * s + u), torch.zeros(3), torch.ones(20, 3), li.Newton()).converged
sys.meta_path.insert(0, Interrupt())
try:
    solve()
except KeyboardInterrupt as error:
    print("interrupted", error.solution.states.shape[0], end=" ")
print(solve(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_an_interrupt_of_the_first_product_leaves_torch_whole():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "interrupted 20 True True\n", done.stderr[-2000:]
