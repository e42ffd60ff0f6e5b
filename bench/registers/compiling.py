"""Compiles Triton kernels for GPUs that are not there: types, layouts and registers, which the interpreter ignores.

`compiled(run, target)` calls `run` with every launch replaced by a compilation for what it would have been launched
with. Must run where Triton has been imported without `TRITON_INTERPRET`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bench.registers.targets import SHARED_KIB

OPTIONS = ("num_warps", "num_stages")
TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8",
}  # fmt: skip

Row = dict[str, Any]


def compiled(run: Callable[[], object], target: int, seen: set[str] | None = None) -> list[Row]:
    """What `run` launches, compiled: of each kernel its name, what it needs and how it waits.

    Args:
        run: makes launches; no memory is read or written by a kernel.
        target: one of `TARGETS`.
        seen: kernels that are not compiled again; those that are compiled are added.
    """
    done: list[Row] = []
    known: set[str] = set() if seen is None else seen
    before = JITFunction.run

    def compile_instead(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **given: Any) -> None:
        del warmup
        assert len(grid) == 1, f"{self.__name__}: the second side of a grid has 65,535 places, this one is {grid}"
        options = {name: given.pop(name) for name in OPTIONS if name in given}
        source = _source(self, dict(zip(self.arg_names, args, strict=False)) | given)
        parts = self.fn.__module__, source.signature, source.constants, source.attrs, options, target
        key = " ".join([self.__name__, *map(str, parts)])
        if key not in known:
            known.add(key)
            made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
            done.append(_row(f"{self.fn.__module__.rsplit('.', 1)[1]}.{self.__name__}", made, target))

    JITFunction.run = compile_instead
    try:
        run()
    finally:
        JITFunction.run = before
    return done


def _row(name: str, made: Any, target: int) -> Row:
    used, warps = _resources(made.asm["cubin"]), made.metadata.num_warps
    return {
        "kernel": name, "warps": warps, "registers": used["REG"], "shared": made.metadata.shared,
        "spilled": used["STACK"] + used["LOCAL"],
        "resident": resident(used["REG"], warps, made.metadata.shared, target), **_shared_words(made.asm["ptx"]),
    }  # fmt: skip


def resident(registers: int, warps: int, shared: int, target: int) -> int:
    """Programs that one multiprocessor holds at once: it has 65,536 registers and room for 64 warps.

    0: the kernel cannot be launched. Registers are given out by 8 to a thread; a program takes 1 KiB of shared memory
    besides its own.
    """
    rounded, whole = -(-registers // 8) * 8, (SHARED_KIB[target] + 1) << 10
    return min(65536 // (rounded * 32 * warps), 64 // warps, 32, whole // (shared + 1024))


def _source(kernel: Any, values: dict[str, Any]) -> ASTSource:
    """As a launch specializes: a number 1 becomes a constant, one divisible by 16 is known to be."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or (special and isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name], whole = TYPES[value.dtype], value.data_ptr()
        elif isinstance(value, int):
            signature[name], whole = "i32" if abs(value) < 2**31 else "i64", value
        else:
            signature[name], whole = "fp32", 1
        if special and whole % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def _resources(binary: bytes) -> dict[str, int]:
    """Registers of a thread, stack and so on, by their names."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", out)}


def _shared_words(code: str) -> dict[str, int]:
    """Instructions by which programs of a launch exchange words of 64 bits (see `look_back`)."""
    return {
        "tickets": code.count("atom.global.gpu.relaxed.add.u64"),
        "publications": code.count("atom.global.gpu.relaxed.exch.b64"),
        "polls": len(re.findall(r"ld\.volatile\.global\.(?:v2\.)?b64", code)),
        "volatile": code.count("volatile"),
    }
