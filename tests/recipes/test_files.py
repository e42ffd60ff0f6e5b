"""A file is the old one or the new one, whatever happens while it is written."""

import ast
import multiprocessing
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.files import PREFIX, BrokenFile, whole, whole_lines, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_takes_the_place_of_the_old_one(old):
    write(old, "neu: ä")
    assert old.read_text(encoding="utf-8") == "neu: ä"
    assert names(old.parent) == ["kept.txt"]
    write(old.parent / "a" / "b.txt", "made")
    assert (old.parent / "a" / "b.txt").read_text() == "made"


def test_its_rights_are_those_of_any_new_file(old):
    write(old, "new")
    (old.parent / "plain").write_text("")
    assert old.stat().st_mode == (old.parent / "plain").stat().st_mode


def test_a_link_stays_a_link(old):
    link = old.parent / "link"
    link.symlink_to(old)
    write(link, "new")
    assert link.is_symlink()
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_in_the_middle(old, error):
    def begun(path):
        with whole(path) as fresh:
            fresh.write_text("half")
            raise error

    with pytest.raises(error):
        begun(old)
    assert old.read_text() == "old"
    assert names(old.parent) == ["kept.txt"]


def test_a_full_disk(old):
    """No file may grow beyond so many bytes, which the operating system reports as it reports a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(old, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert old.read_text() == "old"
    assert names(old.parent) == ["kept.txt"]


def killed_in_the_middle(path):
    with whole(path) as fresh:
        fresh.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_sigkill_in_the_middle(old):
    child = multiprocessing.get_context("fork").Process(target=killed_in_the_middle, args=(old,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert old.read_text() == "old"
    (left,) = old.parent.glob(f"{PREFIX}*")
    write(old, "new")
    assert left.exists()  # of a process that may still write
    os.utime(left, (0, 0))
    write(old, "newer")
    assert names(old.parent) == ["kept.txt"]


@pytest.mark.parametrize(("text", "lines"), [("a\nb\n", ["a", "b"]), ("a\nhal", ["a"]), ("hal", []), (None, [])])
def test_half_a_line_of_a_log_is_left_out(text, lines, tmp_path):
    if text is not None:
        (tmp_path / "log").write_text(text)
    assert whole_lines(tmp_path / "log") == lines


def test_a_checkpoint_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    pytest.importorskip("pytorch_lightning")
    from recipes.gru.checkpoints import WholeCheckpoints

    path, checkpoints = tmp_path / "last.ckpt", WholeCheckpoints()
    checkpoints.save_checkpoint({"step": torch.tensor(1)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            checkpoints.save_checkpoint({"step": torch.zeros(1000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.load_checkpoint(path)["step"] == 1
    assert names(tmp_path) == ["last.ckpt"]
    checkpoints.remove_checkpoint(path)
    assert names(tmp_path) == []


def recurrent_depth(folder, monkeypatch):
    from recipes.recurrent_depth import model

    path = Path(shutil.copy(model.WEIGHTS, folder))
    return path, lambda: model.load(path)


def digits(folder, monkeypatch):
    from recipes.diffusion import choices

    copy = Path(shutil.copytree(choices.DIGITS, folder / "digits"))
    return copy / "unet" / "config.json", lambda: choices.load(str(copy), "cpu")


def letters(folder, monkeypatch):
    pytest.importorskip("h5py")
    from recipes.pretrained import networks

    np.savez(folder / "weights.npz", enc_emb=np.ones(1000))
    monkeypatch.setattr(networks, "asset", lambda *_: folder / "weights.npz")
    return folder / "weights.npz", lambda: networks.load_g2p(3)


@pytest.mark.parametrize("left", ["half", "nothing", "garbage"])
@pytest.mark.parametrize("of", [recurrent_depth, digits, letters])
def test_weights_that_are_not_whole_are_named(of, left, tmp_path, monkeypatch):
    path, load = of(tmp_path, monkeypatch)
    contents = path.read_bytes()
    path.write_bytes({"half": contents[: len(contents) // 2], "nothing": b"", "garbage": b"x" * 3000}[left])
    with pytest.raises(BrokenFile, match=re.escape(str(path)) + r" is not whole.*\d+ bytes"):
        load()


WRITES = {"write_text", "write_bytes", "savefig", "save_file", "save_pretrained", "dump", "to_netcdf"}
OTHERWISE = {
    "bench/common/timing.py: Path('/proc/self/clear_refs').write_text",
    "bench/diffusion/__main__.py: LINES.open",  # logs, of which half a line may be lost
    "bench/diffusion_tolerance/__main__.py: LINES.open",
    "bench/gpu/runner.py: self.log.open",
    "bench/gpu/worker.py: os.fdopen",  # a pipe
    "recipes/canvas.py: figure.savefig",  # into memory
}


def writing(path):
    """Calls that write into a file beside; what is written in its place is called `fresh`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name, arguments = ast.unparse(node.func), [ast.unparse(part) for part in node.args]
            last = name.rpartition(".")[2]
            opened = last in ("open", "fdopen") and any(part in ("'w'", "'a'", "'wb'", "'x'") for part in arguments)
            writes = last in WRITES or name == "torch.save" or opened
            if writes and not any("fresh" in part for part in [name, *arguments]):
                yield name


def test_every_file_is_written_so():
    sources = [path for room in ("lds_iter", "recipes", "bench") for path in sorted((ROOT / room).rglob("*.py"))]
    assert {f"{path.relative_to(ROOT)}: {name}" for path in sources for name in writing(path)} == OTHERWISE
