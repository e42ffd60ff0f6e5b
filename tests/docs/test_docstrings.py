"""Every public callable says what it takes and what it raises."""

import ast
import dataclasses
import inspect
import re
import textwrap

import pytest

import lds_iter as li

MODULES = [li, li.nn, li.auto, li.diagnostics, li.depth, li.mcmc, li.testing]


def public():
    """Every function and class of the public modules, by its name there."""
    found = {}
    for module in MODULES:
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", "").startswith("lds_iter") and not getattr(value, "_is_protocol", False)
            if not name.startswith("_") and ours and (inspect.isfunction(value) or inspect.isclass(value)):
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()


def source(function):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def raises(function):
    """Whether its own code, or what `__post_init__` calls to check arguments, raises."""
    for node in ast.walk(source(function)):
        if isinstance(node, ast.Raise):
            return True
        called = node.func if isinstance(node, ast.Call) else None
        name = getattr(called, "id", getattr(called, "attr", ""))
        if name.startswith("check_"):
            return True
    return False


def constructor(cls):
    """Where a class checks its arguments."""
    own = [vars(cls).get(name) for name in ("__init__", "__post_init__")]
    return [
        function for function in own if inspect.isfunction(function) and "<string>" not in function.__code__.co_filename
    ]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_what_raises_says_so(name):
    value = PUBLIC[name]
    functions = constructor(value) if inspect.isclass(value) else [value]
    if issubclass(value, BaseException) if inspect.isclass(value) else False:
        return
    if any(raises(function) for function in functions):
        assert "Raises:" in (inspect.getdoc(value) or ""), f"{name} raises and does not say what"


def arguments(value):
    if not inspect.isclass(value):
        return list(inspect.signature(value).parameters)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.init and not field.name.startswith("_")]
    own = vars(value).get("__init__")
    return [] if own is None else list(inspect.signature(own).parameters)[1:]


def described(doc, argument):
    """Whether a line such as `one, argument: what it is` is there."""
    return (
        re.search(rf"^\s*(\*{{0,2}}\w+, )*\*{{0,2}}{re.escape(argument)}(, \*{{0,2}}\w+)*: \S", doc, re.MULTILINE)
        is not None
    )


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_argument_is_described(name):
    value, doc = PUBLIC[name], inspect.getdoc(PUBLIC[name]) or ""
    missing = [argument for argument in arguments(value) if not described(doc, argument)]
    assert not missing, f"{name} does not describe {', '.join(missing)}"
