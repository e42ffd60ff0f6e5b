"""What is tested: the rows of the matrix, each an environment of its own."""

from dataclasses import dataclass

NEWEST = "newest"
"""The newest torch that an index offers."""

NAMES = ("tests/test_torch_names.py", "tests/matrix/imports.py")
"""Whether that torch has every name that the sources use; every module is imported, `bench.gpu` and recipes too."""

CORE = (
    "tests/test_copies.py",
    *NAMES,
    "tests/methods/test_answers.py",
    "tests/nn/test_layer_export.py",
    "tests/kernels/cpu/test_cpu_kernels.py::test_scans_on_poisoned_memory",
    "tests/kernels/cpu/test_cpu_kernels.py::test_a_forked_process_can_scan",
)
"""Public objects, names, imports, answers of all methods, export of layers, compiled kernels: about a minute."""

OF_EXTRA = {
    "": CORE,
    "plot": ("tests/diagnostics",),
    "kernels": ("tests/kernels/triton/test_single_pass.py",),
    "depth": ("tests/depth/test_jacobi_decoding.py",),
    "diffusion": ("tests/diffusion/test_sampler.py",),
    "recipes": ("tests/recipes/test_recipe_commands.py", "tests/recipes/test_recipe_mcmc.py"),
    "bench": ("tests/bench/test_mcmc_times.py", "tests/bench/test_bench_ode.py"),
    "ode": ("tests/ode/test_methods.py",),
    "mcmc": ("tests/mcmc/test_samplers.py",),
    "peers": ("tests/bench/test_peers.py",),
    "docs": ("tests/matrix/guide.py",),
    "dev": ("tests/test_package.py", *NAMES, "tests/linear", "-n", "2"),
}
"""For each extra the tests of the code that uses it."""


@dataclass(frozen=True)
class Row:
    """An environment and the tests that run in it.

    Attributes:
        python: as in 3.11.
        torch: a version, or `NEWEST`; empty where the resolution decides.
        extra: of the package, empty for none.
        lowest: whether every requirement of the package and the extra, but a torch that is named, is at its minimum.
        tests: files and folders of tests, and options of pytest.
    """

    python: str
    torch: str = ""
    extra: str = ""
    lowest: bool = False
    tests: tuple[str, ...] = CORE

    @property
    def name(self) -> str:
        words = [f"Python {self.python}"]
        if self.torch:
            words.append(f"torch {self.torch}")
        if self.lowest:
            words.append("lowest of " + (self.extra or ("the rest" if self.torch else "the package")))
        return ", ".join(words)


def rows(short: str) -> list[Row]:
    """All rows; `short` is the torch of `constraints.txt`, which is at hand where CI runs one of its rows."""
    newest = [Row(python, NEWEST) for python in ("3.11", "3.12", "3.13", "3.14")]
    others = [Row("3.12", "2.10.0"), Row("3.13", "2.11.0"), Row("3.14", "2.12.1"), Row("3.12", "2.14.1")]
    lowest = [Row("3.11", "", extra, lowest=True, tests=tests) for extra, tests in OF_EXTRA.items()]
    rest = Row("3.11", short, lowest=True)
    return [Row("3.11", short), *newest, *others, Row("3.14", "2.9.0"), rest, *lowest]
