"""Programs of a Triton kernel in threads of the host that run at once, in no order, by Triton's interpreter.

For kernels that do not ask which program they are (`tl.program_id`), but take tickets: the interpreter has one index
for all. Its loads, stores and atomic operations are the processor's, so programs wait for each other as on a GPU.
"""

import inspect
import random
import sys
import threading
import time
from contextlib import contextmanager

from triton.runtime import interpreter

LATE = "late"
"""The program that starts first, and takes its time: most of the others wait for it."""


@contextmanager
def scrambled(seed):
    """Launches that take tickets run so inside. Yields a list: whether each poll found all words there."""
    rng, polls = random.Random(seed), []
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    call, load, interval = executor.__call__, builder.create_masked_load, sys.getswitchinterval()

    def delayed(self, pointers, mask, other, cache, eviction, volatile):
        if threading.current_thread().name == LATE:
            time.sleep(5e-3)
        elif rng.random() < 0.1:
            time.sleep(1e-3 * rng.random())
        found = load(self, pointers, mask, other, cache, eviction, volatile)
        if volatile:
            polls.append(bool((found.data >> 32).all()))
        return found

    def launched(self, *given, **named):
        if "ticket" in self.fn.__code__.co_names:
            _at_once(self, rng, given, named)
        else:
            call(self, *given, **named)

    executor.__call__ = launched
    builder.create_masked_load = delayed
    sys.setswitchinterval(1e-5)
    try:
        yield polls
    finally:
        executor.__call__, builder.create_masked_load = call, load
        sys.setswitchinterval(interval)


def _at_once(executor, rng, given, named):
    """`GridExecutor.__call__` with threads for its loop."""
    named = {name: value for name, value in named.items() if name in inspect.getfullargspec(executor.fn).args}
    on_host, named_on_host = executor._init_args_hst(given, named)
    patched = interpreter._patch_lang(executor.fn)
    try:
        arguments = inspect.getcallargs(executor.fn, *on_host, **named_on_host)
        for name, value in arguments.items():
            arguments[name] = value if name in executor.constexprs else interpreter._implicit_cvt(value)
        interpreter.interpreter_builder.set_grid_dim(executor.grid[0], 1, 1)
        interpreter.interpreter_builder.grid_idx = None  # whoever asks for it fails
        programs = [threading.Thread(target=executor.fn, kwargs=arguments) for _ in range(executor.grid[0])]
        rng.shuffle(programs)
        programs[0].name = LATE
        for program in programs:
            program.start()
        for program in programs:
            program.join()
    finally:
        if patched is not None:  # Triton 3.5 leaves its language as the interpreter has it
            patched.restore()
    executor._restore_args_dev(given, on_host, named, named_on_host)
