"""Compile Triton kernels for an H100 or H200, without one: types, layouts and registers, which the interpreter ignores.

`compiled(run)` calls `run` with every launch replaced by a compilation for what it would have been launched with. Must
run where Triton has been imported without `TRITON_INTERPRET`.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGET = GPUTarget("cuda", 90, 32)
OPTIONS = ("num_warps", "num_stages")
TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8",
}  # fmt: skip


def compiled(run):
    """What `run` launches, compiled: the kernels' names, each with its resources as `cuobjdump` says them."""
    seen, done = set(), []
    before = JITFunction.run

    def compile_instead(self, *args, grid, warmup, **given):
        options = {name: given.pop(name) for name in OPTIONS if name in given}
        source = _source(self, dict(zip(self.arg_names, args, strict=False)) | given)
        key = (self.__name__, str(source.signature), str(source.constants), str(source.attrs), str(options))
        if key not in seen:
            seen.add(key)
            made = triton.compile(source, target=TARGET, options=options).asm
            done.append((self.__name__, _resources(made["cubin"]) | _shared_words(made["ptx"])))

    JITFunction.run = compile_instead
    try:
        run()
    finally:
        JITFunction.run = before
    return done


def _source(kernel, values):
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


def _resources(binary):
    """Registers, stack and so on, by their names."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        out = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", out)}


def _shared_words(code):
    """Instructions by which programs of a launch exchange words of 64 bits (see `look_back`)."""
    return {
        "tickets": code.count("atom.global.gpu.relaxed.add.u64"),
        "publications": code.count("atom.global.gpu.relaxed.exch.b64"),
        "polls": len(re.findall(r"ld\.volatile\.global\.(?:v2\.)?b64", code)),
        "volatile": code.count("volatile"),
    }


if __name__ == "__main__":
    from launches import LAUNCHES

    found = [
        {"launch": label, "kernel": name, **used}
        for label, launch in LAUNCHES.items()
        for name, used in compiled(launch)
    ]
    print(json.dumps(found))
