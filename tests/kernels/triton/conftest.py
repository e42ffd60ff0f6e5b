"""Triton's interpreter, without what it does again for every call."""

import inspect

import pytest


class Once:
    """The interpreter's patch of Triton's language: made for a launch, and kept for the calls of functions within it.

    It looks through all members of the language for each call of a device function too, though nothing is left to
    patch there, which takes half the time of a launch.
    """

    def __init__(self, interpreter):
        self.patch, self.scope, self.language = interpreter._patch_lang, interpreter._LangPatchScope, interpreter.tl
        self.patched = []

    def __call__(self, fn):
        modules = [value for value in fn.__globals__.values() if inspect.ismodule(value)]
        wanted = [module for module in (self.language, self.language.core) if module in modules]
        if wanted and all(module in self.patched for module in wanted):
            return self.scope()
        scope, before = self.patch(fn), self.patched
        restore, self.patched = scope.restore, [*before, *wanted]

        def restored():
            self.patched = before
            restore()

        scope.restore = restored
        return scope


@pytest.fixture(autouse=True)
def _patched_once(monkeypatch):
    interpreter = pytest.importorskip("triton", reason="made for Linux").runtime.interpreter
    if hasattr(interpreter, "_LangPatchScope"):  # since 3.6; before, a patch is not undone
        monkeypatch.setattr(interpreter, "_patch_lang", Once(interpreter))
