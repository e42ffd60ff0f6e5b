"""Several processes: started afresh with an argument of ours, forked after use, and training together."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lds_iter as li

FORKED = """
import multiprocessing, torch, lds_iter as li

PROBLEM = torch.zeros(2), torch.linspace(0, 1, 40).reshape(20, 2)

def f(s, u):
    return torch.tanh(0.5 * s + u)

def solved(results):
    torch.set_num_threads(1)
    results.put(li.solve(f, *PROBLEM, li.Newton()).states.tolist())

want = li.solve(f, *PROBLEM, li.Newton()).states
context = multiprocessing.get_context("fork")
results = context.Queue()
child = context.Process(target=solved, args=(results,))
child.start()
got = results.get(timeout=120)
child.join()
print(child.exitcode, torch.equal(torch.tensor(got), want))
"""


def test_a_forked_process_solves_after_its_parent_has(program):
    """In a program of its own: the process of the tests has threads that others left, which a fork does not survive."""
    assert program(FORKED) == "0 True"


STARTED_AFRESH = """
import torch, torch.multiprocessing as mp, lds_iter as li

def work(model, method, x, out):
    torch.set_num_threads(1)
    out.copy_(model(x)[0].detach())
    assert li.solve(torch.nn.Identity() if method is None else f, torch.zeros(2), torch.zeros(9, 2), method).converged

def f(s, u):
    return torch.tanh(s + u)

if __name__ == "__main__":
    model, x = li.nn.GRU(2, 3).requires_grad_(False), torch.ones(5, 1, 2)
    out = torch.zeros(5, 1, 3).share_memory_()
    model(x)
    child = mp.get_context("spawn").Process(target=work, args=(model, li.TrustRegion(li.Newton()), x, out))
    child.start()
    child.join()
    print(child.exitcode, torch.equal(out, model(x)[0]))
"""


def test_a_spawned_process_gets_layers_and_methods(tmp_path, program):
    assert program(STARTED_AFRESH) == "0 True"


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group of one process, over gloo: what the wrappers do to parameters and gradients is the same as for more."""
    store = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Model(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.last = kind(3, 4), torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.last(self.rnn(x)[0])


def trained(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def shards(model):
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model.rnn, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed.*", "ignore::FutureWarning:torch.distributed.*")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, shards])
@pytest.mark.parametrize("method", [None, li.Newton()], ids=repr)
def test_a_wrapped_model_trains_as_torchs(group, wrap, method):
    plain, x = Model(torch.nn.GRU), torch.randn(20, 2, 3)
    ours = Model(lambda *sizes: li.nn.GRU(*sizes, method=method))
    ours.load_state_dict(plain.state_dict())
    want, got = trained(plain, x), trained(wrap(ours), x)
    assert got == pytest.approx(want, rel=1e-4)  # residuals of 1e-5 in float32
    assert want[-1] < want[0]
