"""What is published: the contents and metadata of wheel and sdist, and the files that stand beside the package."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import lds_iter as li
from docs import make_licences

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
BUILD = "import sys; from setuptools.build_meta import *; to = sys.argv[1]; build_wheel(to); build_sdist(to)"
CITATION_KEYS = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}
NOT_PUBLISHED = ("tests", "docs", "bench", "recipes", "out", "site")


class Loader(yaml.SafeLoader):
    """Takes the tags of mkdocs for text."""


Loader.add_multi_constructor("tag:yaml.org,2002:python", lambda loader, suffix, node: suffix)


def read(path):
    return yaml.load((ROOT / path).read_text(), Loader)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of a copy, by the setuptools at hand and so without a network."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    shutil.copytree(ROOT / "lds_iter", copy / "lds_iter", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NOT_PUBLISHED:  # stand-ins: whatever lies there
        (copy / name).mkdir()
        for file in "__init__.py", "test_it.py", "kernel.cpp":
            (copy / name / file).touch()
    command = [sys.executable, "-c", BUILD, str(out)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True)
    wheel = zipfile.ZipFile(next(out.glob("*.whl")))
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
        names = [member.name.partition("/")[2] for member in sdist if member.isfile()]
    return wheel, names


def of_the_package():
    """The files that must be published: sources and all that is not Python."""
    found = (path for path in (ROOT / "lds_iter").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in found}


def test_the_wheel_is_the_package_and_nothing_else(built):
    names = {name for name in built[0].namelist() if ".dist-info/" not in name}
    assert names == of_the_package()
    assert "lds_iter/py.typed" in names
    assert {"lds_iter/kernels/cpu/scan.cpp", "lds_iter/kernels/cpu/memory.h"} <= names


def test_the_sdist_is_what_installs(built):
    names = set(built[1])
    assert of_the_package() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    assert not [name for name in names if name.partition("/")[0] in NOT_PUBLISHED]


def test_the_metadata(built):
    wheel = built[0]
    text = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == li.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers
    assert not [line for line in classifiers if line.startswith("License ::")]  # the expression says it
    assert dict(line.split(", ") for line in metadata.get_all("Project-URL")) == PROJECT["urls"]
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(re.match(r"\w+", line)[0] for line in needed) == ["torch", "tqdm"]


def test_the_addresses_are_those_of_the_guide():
    guide = read("mkdocs.yml")
    assert PROJECT["urls"] == {"Source": guide["repo_url"], "Documentation": guide["site_url"]}


def pythons():
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def test_every_python_that_is_named_is_tested():
    job = read(".github/workflows/ci.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == pythons()
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
    assert {"run": "make lint test"} in job["steps"]


def test_the_workflow_is_one():
    """What the format asks for, in short: the keys of jobs and steps, and that each `make` target exists."""
    workflow = read(".github/workflows/ci.yml")
    assert {"name", "permissions", "jobs"} <= set(workflow)
    assert True in workflow  # `on`, which YAML reads as a truth value
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert set(job) <= {"runs-on", "timeout-minutes", "strategy", "steps"}
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))
            if step.get("run", "").startswith("make "):
                assert set(step["run"].split()[1:]) <= targets


def test_ci_runs_one_row_of_the_matrix():
    assert "matrix-row" in (ROOT / ".ci/run").read_text()
    only = re.search(r'tests/matrix --only "(.+?)" --quick --without-result', (ROOT / "Makefile").read_text())[1]
    listed = [sys.executable, "tests/matrix", "--list", "--only", only]
    assert subprocess.check_output(listed, cwd=ROOT, text=True).splitlines() == [
        f"Python {pythons()[0]}, torch {TORCH}, lowest of the rest"
    ]


def test_the_citation_is_of_this_version():
    """The keys that version 1.2.0 of the format requires, and no other than it knows (its schema is not at hand)."""
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation) <= CITATION_KEYS
    assert citation["version"] == li.__version__
    assert citation["license"] == PROJECT["license"]
    for work in [citation, *citation["references"]]:
        assert all(
            {"family-names", "given-names"} <= set(author) or set(author) == {"name"} for author in work["authors"]
        )
    assert {"type", "title", "authors"} <= set(citation["references"][0])
    assert citation["references"][0]["title"] in (ROOT / "docs/about/cite.md").read_text()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_forms_for_issues_ask_something(name):
    form = read(f".github/ISSUE_TEMPLATE/{name}")
    assert {"name", "description", "body"} <= set(form)
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert any(field.get("validations", {}).get("required") for field in asked)
    assert len({field["id"] for field in asked}) == len(asked)


def test_the_lines_to_paste_into_a_report_run(capsys):
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    lines = next(field["attributes"]["value"] for field in form["body"] if field.get("id") == "versions")
    exec(compile(lines, "versions", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith(li.__version__)
    assert "scan" in said


def test_one_place_has_the_version_and_the_changelog_begins_with_it():
    """`pyproject.toml` reads it from the package, as the guide does; the newest heading of the changelog is of it."""
    assert "version" in PROJECT["dynamic"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)", line) for line in headings[1:]]
    assert headings[0] == "Unreleased"
    assert versions[0][1] == li.__version__
    assert str(read("CITATION.cff")["date-released"]) == versions[0][2]
    numbers = [tuple(int(part) for part in version[1].split(".")) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)


def conda_name(requirement):
    return requirement.replace(" ", "").replace("torch>", "pytorch>")


def test_the_conda_recipe_is_of_this_package():
    recipe = read("conda/recipe.yaml")
    assert recipe["schema_version"] == 1
    assert recipe["context"] == {"name": PROJECT["name"], "version": li.__version__, "python_min": pythons()[0]}
    needed = {f"python>={'${{python_min}}'}", *map(conda_name, PROJECT["dependencies"])}
    assert {line.replace(" ", "") for line in recipe["requirements"]["run"]} == needed
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(build) <= {line.replace(" ", "") for line in recipe["requirements"]["host"]}
    scripts = [line for test in recipe["tests"] for line in test.get("script", [])]
    assert scripts
    assert all(isinstance(line, str) for line in scripts)  # not a mapping, which YAML makes of a line with a colon
    about = recipe["about"]
    assert about["license"] == PROJECT["license"]
    assert about["summary"] == PROJECT["description"]
    assert [about["homepage"], about["documentation"]] == list(PROJECT["urls"].values())
    assert (ROOT / about["license_file"]).exists()


def test_licences_of_all_that_is_asked_for_are_listed():
    """Run `python -m docs.make_licences` where this fails."""
    known = make_licences.known()
    assert set(known) == set(make_licences.requirements())
    installed = {name: make_licences.licence(name) for name in known}
    assert {name: said for name, said in installed.items() if said not in (None, known[name])} == {}
    assert not {name for name, said in known.items() if said.startswith("not ")}
