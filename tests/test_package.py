"""What importing the package does, and what it does not."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lds_iter as li


def test_importing_the_package_imports_no_extra():
    extras = [
        "triton",
        "matplotlib",
        "pytorch_lightning",
        "lightning",
        "diffusers",
        "transformers",
        "rich",
        "typer",
        "h5py",
        "hypothesis",
        "arviz",
        "sklearn",
    ]
    code = f"import sys, lds_iter; print([name for name in {extras!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # torch itself may look for triton; what counts is that we add nothing to it.
    alone = subprocess.run(
        [sys.executable, "-c", code.replace(", lds_iter", ", torch")], capture_output=True, text=True, check=True
    )
    assert done.stdout == alone.stdout


def test_importing_the_package_writes_nothing_and_imports_next_to_nothing_but_itself(tmp_path):
    """Beyond what torch has imported; so it takes as long as its own files, a fraction of what torch takes."""
    code = (
        "import sys, torch; before = set(sys.modules); import lds_iter; "
        "print(sorted(name for name in set(sys.modules) - before if name.partition('.')[0] != 'lds_iter'))"
    )
    places = dict.fromkeys(["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"], str(tmp_path))
    there = {**os.environ, **places, "PYTHONPATH": str(Path(li.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=there)
    assert done.returncode == 0, done.stderr
    assert set(ast.literal_eval(done.stdout)) <= {"html", "html.entities", "shlex"}
    assert not list(tmp_path.iterdir())


def test_public_names_are_explicit_and_importable():
    public = [name for name in dir(li) if not name.startswith("_")]
    assert {"solve", "sequential", "Newton", "Solution", "linear_scan", "ravel", "fold", "verify", "ode"} <= set(public)
    assert [name for name in public if not hasattr(li, name)] == []
    with pytest.raises(AttributeError, match="module 'lds_iter' has no attribute 'slove'"):
        li.slove  # noqa: B018
    assert li.__version__.count(".") == 2


def test_what_most_programs_do_without_is_loaded_when_it_is_asked_for():
    names = ("depth", "diagnostics", "diffusion", "mcmc", "ode", "testing")
    rooms = f"{{name for name in {names} if f'lds_iter.{{name}}' in sys.modules}}"
    code = f"import sys, lds_iter as li; print({rooms}); li.verify, li.compare, li.ode.odeint; print(sorted({rooms}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n['diagnostics', 'ode', 'testing']\n"


def test_depth_works_from_the_package_alone_and_without_transformers():
    """As an installed package does; transformers is asked for by models of its own alone."""
    code = (
        "import sys; sys.modules['transformers'] = sys.modules['recipes'] = None; import torch, lds_iter as li; "
        "print(li.depth.shared(torch.tanh, torch.ones(1, 2), 3, dims=1).solve().converged)"
    )
    root = Path(li.__file__).parents[1]
    there = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=there)
    assert done.stdout == "True\n", done.stderr


def test_diffusion_works_from_the_package_alone_in_any_folder(tmp_path):
    """As an installed package does: nothing of the repository but `lds_iter` itself."""
    pytest.importorskip("diffusers")
    code = (
        "import sys; sys.modules['recipes'] = sys.modules['bench'] = None; import torch, lds_iter.diffusion as d; "
        "from diffusers import DDIMScheduler as S; net = lambda sample, timestep: 0.9 * sample.tanh(); "
        "print(d.ParallelSampler(net, S())(torch.ones(1, 1, 4, 4), 9).solution.converged)"
    )
    there = {**os.environ, "PYTHONPATH": str(Path(li.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=there)
    assert done.stdout == "True\n", done.stderr


MODULES = [li, li.auto, li.depth, li.diagnostics, li.diffusion, li.mcmc, li.nn, li.ode, li.testing]
PLAIN = {"linear_scan", "reference_scan", "blockwise", "fold", "ravel", "register_scan"}
"""Called at every step and in compiled code; and a decorator."""


def functions_with_options():
    found = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if not inspect.isfunction(value) or name.startswith("_") or name in PLAIN:
                continue
            parameters = inspect.signature(value).parameters.values()
            if any(p.default is not p.empty for p in parameters) and all(p.kind != p.VAR_KEYWORD for p in parameters):
                found[f"{module.__name__}.{name}"] = value
    return found


@pytest.mark.parametrize("name", functions_with_options())
def test_a_misspelt_option_is_answered_with_the_nearest_one(name):
    function = functions_with_options()[name]
    option = [p.name for p in inspect.signature(function).parameters.values() if p.default is not p.empty][-1]
    with pytest.raises(TypeError, match=f"has no argument `{option}s`. Did you mean `{option}`"):
        function(**{option + "s": 1})
