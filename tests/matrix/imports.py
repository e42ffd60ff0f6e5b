"""Every module of the package, of `bench.gpu` and of the recipes is imported, with whatever is installed.

What is missing may be an extra, never a name of torch's or of ours.
"""

import importlib
import pkgutil

import pytest

OWN = {"lds_iter", "bench", "recipes", "torch"}


def imported(name):
    """A module, or None where it needs what is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name.partition(".")[0] in OWN:
            raise
        return None


def modules():
    """By name; of a package that cannot be imported its own alone."""
    for room in "lds_iter", "bench.gpu", "recipes":
        yield room
        path = getattr(imported(room), "__path__", [])
        yield from (found.name for found in pkgutil.walk_packages(path, f"{room}.", onerror=lambda name: None))


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_can_be_imported(name):
    if imported(name) is None:
        pytest.skip("needs an extra")


def test_no_module_is_forgotten():
    assert sum(name.startswith("lds_iter.") for name in modules()) > 150
