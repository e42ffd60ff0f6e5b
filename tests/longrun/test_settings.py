"""Settings of torch that belong to the whole process: solves and layers give under each what they give without."""

import contextlib

import pytest
import torch

import lds_iter as li


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {
    "deterministic algorithms": deterministic,
    "anomaly mode": lambda: torch.autograd.detect_anomaly(check_nan=True),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
METHODS = [li.Newton(), li.QuasiNewton(), li.TrustRegion(li.Newton()), li.LevenbergMarquardt(10.0), li.Auto()]


def elementwise(s, u):
    """Without a matrix product, so that autocast has nothing to round."""
    return torch.tanh(0.5 * s + u)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_states_and_gradients_of_a_solve(method, setting):
    s0, u = torch.zeros(3), torch.randn(50, 3)

    def run():
        leaf = u.clone().requires_grad_()
        states = li.solve(elementwise, s0, leaf, method).states
        return states, torch.autograd.grad(states.sum(), leaf)[0]

    want = run()
    with SETTINGS[setting]():
        got = run()
    for one, other in zip(got, want, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # Auto may stop elsewhere, at residuals of 1e-5


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "autocast"])
@pytest.mark.parametrize("method", [None, li.Newton()], ids=repr)
def test_a_layer(method, setting):
    layer, x = li.nn.GRU(3, 4, method=method), torch.randn(20, 2, 3)
    want = layer(x)[0]
    with SETTINGS[setting]():
        got = layer(x)[0]
        got.sum().backward()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)  # a residual of 1e-5
    assert all(parameter.grad is not None for parameter in layer.parameters())
