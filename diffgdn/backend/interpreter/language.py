"""Make triton.language work when it is called from Python, once for the whole process.

Triton's interpreter replaces the members of `triton.language` by wrappers for the time of a launch, and
does so again whenever one jit function calls another. A name bound earlier (`exp = tl.exp`) keeps the
builtin that is not replaced, which refuses to work; and the replacing takes longer than most operations.
Here each builtin is changed in place instead, whatever it is called: if no semantic is given, it takes the
interpreter's.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

SEMANTIC = "_diffgdn_semantic"  # the name under which builtins find it among the globals of their module


def alias_is_unknown() -> bool:
    """Probe whether a builtin that nobody has replaced refuses a number."""
    try:
        tl.math.exp(interpreter.interpreter_semantic.to_tensor(0.0))
    except ValueError:
        return True
    return False


def let_builtins_find_their_semantic() -> None:
    """Change every builtin of triton.language in place, and patch the rest of it for good.

    Replaces `_patch_lang`, which would do it anew for each launch and each nested call.
    """
    originals = interpreter._patch_lang_tensor, interpreter._patch_lang_core
    for function in _builtins():
        _carry_semantic(function)
    _let_methods_find_it()
    scope = interpreter._LangPatchScope()  # never restored
    for language in (tl, tl.core):
        for patch, what in zip(originals, (language.tensor, language), strict=True):
            patch(what, scope)
    # A loop bound: older versions ask int() of an array that numpy 2.4 does not take for a number.
    tl.tensor.__index__ = lambda self: int(self.handle.data.reshape(-1)[0])
    for name, original in PATCHED.items():
        redirect(original, getattr(tl, name))
        for language in (tl, tl.core):
            setattr(language, name, original)
    _let_ranges_count()
    interpreter._patch_lang = lambda fn: _NoScope()


def overflow_is_checked() -> bool:
    """Probe whether each 32-bit sum and product is computed twice, a difference being an error; compiled,
    it wraps around."""
    return bool(interpreter.interpreter_builder.options.sanitize_overflow)


def let_integers_wrap() -> None:
    """Leave the overflow checks out, as a compiled kernel does by default."""
    builder = interpreter.interpreter_builder
    options = dataclasses.replace(
        builder.options,
        sanitize_overflow=False,
        allowed_dot_input_precisions=("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6"),
    )
    original = interpreter.InterpreterBuilder.__init__

    def patched(self: Any) -> None:
        original(self)
        self.options = options

    interpreter.InterpreterBuilder.__init__ = patched
    builder.options = options


class _NoScope:
    """Stand for what a launch is given to restore: nothing was patched for it."""

    def restore(self) -> None:
        """Restore nothing."""


def _builtins() -> Iterator[FunctionType]:
    """List every builtin of triton.language, of its modules and of their classes, each once."""
    seen: set[int] = set()
    queue: list[Any] = [tl]
    while queue:
        holder = queue.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for value in list(vars(holder).values()):
            if isinstance(value, FunctionType):
                if tl.core.is_builtin(value) and id(value) not in seen:
                    seen.add(id(value))
                    yield value
            elif _is_ours(value, holder):
                queue.append(value)


def _is_ours(value: Any, holder: Any) -> bool:
    """Tell whether a member is a module or class of triton.language that may hold further builtins."""
    if isinstance(value, ModuleType):
        return value.__name__.startswith("triton.language")
    return inspect.isclass(value) and value.__module__.startswith("triton.language")


def _carry_semantic(function: FunctionType) -> None:
    """Give a builtin the interpreter's semantic wherever its caller gives none.

    `core.builtin` makes a wrapper that refuses to be called without one. Its code is replaced, not the
    wrapper, so that every name that is bound to it changes. Wrappers of another make (methods, which only
    forward) stay.
    """
    if function.__code__.co_freevars != ("fn",) or "_semantic" not in function.__code__.co_consts:
        return
    function.__globals__[SEMANTIC] = interpreter.interpreter_semantic
    function.__code__ = _template(function).__code__


def _let_methods_find_it() -> None:
    """Lead methods of tensors to what triton.language has under their names.

    Up to 3.8 a method like x.rsqrt() forwards to the function inside the builtin, which has no semantic.
    """
    for name, method in list(vars(tl.tensor).items()):
        function = getattr(tl.math, name, None)
        if isinstance(method, FunctionType) and function is not None and tl.core.is_builtin(function):
            setattr(tl.tensor, name, _forward(function))


def _forward(function: Any) -> FunctionType:
    """Make a method that calls a builtin, and counts as one."""

    def method(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    setattr(method, tl.core.TRITON_BUILTIN, True)
    return method  # type: ignore[return-value]


def _template(fn: Any) -> FunctionType:
    """Make the function whose code a builtin's wrapper gets."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("_semantic") is None:
            kwargs["_semantic"] = _diffgdn_semantic  # type: ignore[name-defined]  # noqa: F821 (a global there)
        return fn(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def _let_ranges_count() -> None:
    """Let tl.range and tl.static_range be Python iterators, also where they were imported by name."""
    for module in (tl, tl.core):  # a launch left its own there
        module.range, module.static_range = RANGE, STATIC_RANGE
    RANGE.__init__ = _keep_bounds
    RANGE.__iter__ = lambda self: iter(counted(*self.bounds))
    STATIC_RANGE.__init__ = _keep_bounds
    STATIC_RANGE.__iter__ = lambda self: iter(builtins.range(*(int(bound) for bound in self.bounds)))


def redirect(function: Any, instead: Any) -> None:
    """Let a builtin, under whatever name it was imported, call something else in its own place."""
    (cell,) = function.__closure__
    cell.cell_contents = lambda *args, _semantic=None, _generator=None, **kwargs: instead(*args, **kwargs)


# As they are before anything replaces the names.
RANGE, STATIC_RANGE = tl.core.range, tl.core.static_range
# Builtins that need more than a semantic: the interpreter has functions of its own for them.
PATCHED = {
    name: getattr(tl.core, name)
    for name in (
        "reduce",
        "associative_scan",
        "static_assert",
        "static_print",
        "multiple_of",
        "max_contiguous",
        "max_constancy",
    )
}


def _keep_bounds(self: Any, arg1: Any, arg2: Any = None, step: Any = None, **hints: Any) -> None:
    """Keep the bounds of a range: the constructor of tl.range and tl.static_range."""
    start, end = (0, arg1) if arg2 is None else (arg1, arg2)
    self.bounds = start, end, 1 if step is None else step


def counted(*bounds: Any) -> Iterator[Any]:
    """Yield the values of range(*bounds) as scalar tensors: int32, or int64 if a bound is."""
    wide = any(_is_wide(bound) for bound in bounds)
    dtype = tl.int64 if wide else tl.int32
    constant = interpreter.interpreter_semantic.scalar_constant
    for value in builtins.range(*(bound.__index__() for bound in bounds)):
        yield constant(value, dtype)


def _is_wide(bound: Any) -> bool:
    """Tell whether a bound has, or needs, more than 32 bits."""
    if isinstance(bound, tl.tensor):
        return bool(bound.dtype.primitive_bitwidth > 32)
    return not -(2**31) <= bound.__index__() < 2**31
