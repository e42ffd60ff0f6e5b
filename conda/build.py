"""Build `recipe.yaml` and run its tests: `make conda`, which takes a minute and leaves the package in `out/conda`.

It needs none of conda's own channels. A channel is made of what is installed here: this Python with its standard
library, pip, setuptools and tqdm as packages; the package of PyTorch points to the one in `.venv`. So the build says
that the recipe is whole, that its requirements are enough and that its tests pass; it says nothing of the packages of
conda-forge.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from rattler_build import BuildError, Stage0Recipe, ToolConfiguration, assemble_package

RECIPE = Path(__file__).with_name("recipe.yaml")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
NOT_NEEDED = ("site-packages", "dist-packages", "__pycache__", "test", "idlelib", "config-*")
PLATFORM = "linux-64"

Fill = Callable[[Path], None]


def interpreter(folder: Path) -> None:
    """The Python that runs this, with its standard library and without its packages."""
    base, library = Path(sys.base_prefix), folder / "lib" / PYTHON
    shutil.copytree(base / "lib" / PYTHON, library, ignore=shutil.ignore_patterns(*NOT_NEEDED))
    (library / "site-packages").mkdir()
    for path in (base / "lib").glob("libpython*.so*"):
        shutil.copy(path, folder / "lib")
    (folder / "bin").mkdir()
    shutil.copy(base / "bin" / PYTHON, folder / "bin" / PYTHON)
    (folder / "bin" / "python").symlink_to(PYTHON)


def distribution(name: str) -> Fill:
    """An installed distribution, without its programs."""

    def fill(folder: Path) -> None:
        site = folder / "lib" / PYTHON / "site-packages"
        for file in metadata.files(name) or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), site / file)

    return fill


def elsewhere(site: Path) -> Fill:
    """No more than a line that says where packages are."""

    def fill(folder: Path) -> None:
        path = folder / "lib" / PYTHON / "site-packages" / "torch.pth"
        path.parent.mkdir(parents=True)
        path.write_text(f"{site}\n")

    return fill


def put(channel: Path, name: str, version: str, fill: Fill) -> None:
    """Make a package of a channel."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        needs = [] if name == "python" else ["python"]
        to = channel / PLATFORM
        assemble_package(name, version, PLATFORM, "0", to, files_dir=folder, depends=needs, compression_level=1)


def main(site: Path, torch: str, out: Path) -> None:
    """Make the channel, build into it, and keep the package.

    Args:
        site: the folder that torch is installed in.
        torch: its version.
        out: where the package goes.
    """
    with tempfile.TemporaryDirectory(prefix="channel-") as folder:
        channel = Path(folder)
        put(channel, "python", ".".join(map(str, sys.version_info[:3])), interpreter)
        put(channel, "pytorch", torch, elsewhere(site))
        for name in "pip", "setuptools", "tqdm":
            put(channel, name, metadata.version(name), distribution(name))
        try:
            results = Stage0Recipe.from_file(RECIPE).run_build(
                tool_config=ToolConfiguration(test_strategy="native"),
                output_dir=channel,
                channels=[channel.as_uri()],
            )
        except BuildError as error:
            sys.exit(f"The recipe cannot be built: {error}")
        out.mkdir(parents=True, exist_ok=True)
        for package in (package for result in results for package in result.packages):
            print(shutil.copy(package, out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
