"""What layers whose time steps several ranks share refuse, on every rank alike."""

import copy
import pickle

import torch
import torch.distributed as dist
from shared_layers import BATCH, FEATURES, WIDTH, layer_of

import lds_iter as li


def refusals(group):
    """The words of the error of each case on this rank; some cases are wrong on the last rank alone."""
    last = group.rank() == group.size() - 1
    x = torch.ones(3, BATCH, FEATURES, dtype=torch.float64)
    layer = layer_of("GRU", group)
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2, FEATURES, dtype=torch.float64)])
    far = layer_of("GRU", group, max_iters=1)
    with torch.no_grad():
        far.weight_hh_l0.mul_(20)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, group.size()), mesh_dim_names=("batch", "time"))
    cell = layer_of("cell", group)

    def twice():
        layer.zero_grad()
        output, _ = layer(x)
        torch.autograd.grad(output.sum(), list(layer.parameters()), create_graph=True)

    cases = {
        "packed": lambda: layer(packed if last else x),
        "width": lambda: layer(x[..., :2] if last else x),
        "empty batch": lambda: layer(x[:, :0]),
        "no input": lambda: layer(None),
        "batch": lambda: layer(x[:, :1] if last else x),
        "no time": lambda: layer(x[:0]),
        "nan": lambda: layer(x * torch.nan if last else x),
        "layer": lambda: layer_of("GRU", group, bias=last)(x),
        "budget": lambda: far(x),
        "traced": lambda: torch.func.vmap(lambda one: layer(one)[0])(x[None]),
        "twice": twice,
        "cell": lambda: cell(x[..., :2] if last else x),
        "cell, no tensor": lambda: cell("x" if last else x),
        "auto": lambda: layer_of("GRU", group, method=li.Auto()),
        "compiler": lambda: layer_of("GRU", group, method=li.Newton(), compiler=torch.compile),
        "mesh": lambda: li.nn.GRU(2, 3, mesh=mesh),
        "no mesh": lambda: setattr(layer, "mesh", 2),
    }
    found = {name: words_of(case) for name, case in cases.items()}
    output, _ = layer(x)  # after all of that the ranks are in step
    return {**found, "after all": str(tuple(output.shape))}


def words_of(case):
    """The words of the error of a call."""
    try:
        case()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def conveniences(group):
    """What a layer with a mesh does as one without."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, group.size()), mesh_dim_names=("batch", "time"))["time"]
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.GRU(FEATURES, WIDTH, dtype=torch.float64))
    x = torch.randn(5, BATCH, FEATURES, dtype=torch.float64)[slice(0, 3) if group.rank() == 0 else slice(3, 5)]
    li.nn.parallelize(model, mesh=mesh, rtol=1e-12, atol=1e-12)
    layer, memory = model[0], li.nn.WarmStart()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    with torch.no_grad():
        output, final = layer(x)
        same = twin(x)[0]
        layer.warm_start = memory
        for _ in range(2):
            with memory.samples(["a", "b"]):
                layer(x)
        again = layer.last_solution[0].iterations.tolist()
        half = copy.deepcopy(layer).bfloat16()
        coarse, _ = half(x.bfloat16())
    return {
        "output": output,
        "final": final,
        "same": torch.equal(same, output),
        "again": again,
        "plan": layer.last_plan.why,
        "half": (coarse.dtype, float((coarse - output).abs().max())),
        "solutions": layer.last_solution[0].states.shape,
    }
