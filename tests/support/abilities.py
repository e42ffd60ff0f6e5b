"""What torch can do on this Python. torch 2.9 is published for Python 3.14, and has no compiler there."""

import sys

import pytest
import torch

COMPILES = sys.version_info < (3, 14) or torch.__version__ >= "2.10"

compiles = pytest.mark.skipif(not COMPILES, reason="torch 2.9 has no torch.compile and no torch.jit.script here")
