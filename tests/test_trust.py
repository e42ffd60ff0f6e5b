"""What the sources must not do: read a file that may run code, or run a hub's code unasked."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for room in ("lds_iter", "recipes", "bench") for path in sorted((ROOT / room).rglob("*.py"))]
READS_OBJECTS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
"""Modules whose `load` runs what a file says."""

ALLOWED = {
    "bench/gpu/stages/guide.py: exec",  # the code blocks of the guide
}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}, node.lineno


def faults(path):
    for name, given, line in calls(path):
        module, _, function = name.rpartition(".")
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{path.name}:{line}: torch.load without weights_only=True"
        if module in READS_OBJECTS and function in ("load", "loads"):
            yield f"{path.name}:{line}: {name}"
        if function in ("load", "load_npz") and given.get("allow_pickle", "False") != "False":
            yield f"{path.name}:{line}: allow_pickle"
        if "trust_remote_code" in given and "Config" not in name and given["trust_remote_code"] == "True":
            yield f"{path.name}:{line}: trust_remote_code=True, unasked"
        if function == "load_from_checkpoint" or given.get("shell") == "True" or name in ("eval", "exec", "os.system"):
            yield f"{path.name}:{line}: {name}"


def test_no_source_reads_objects_or_runs_foreign_code():
    found = {f"{path.relative_to(ROOT)}: {fault.rpartition(': ')[2]}" for path in SOURCES for fault in faults(path)}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(data)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_each_is_found(line, tmp_path):
    path = tmp_path / "source.py"
    path.write_text(line)
    assert list(faults(path))
