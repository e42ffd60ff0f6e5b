"""Programs in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path):
    """Run a program from a file, as spawned processes need it, and return what it printed."""

    def run(code):
        path = tmp_path / "program.py"
        path.write_text(code)
        there = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=there, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    return run
