"""Make types and shapes of tensors once for each block shape, instead of anew for each result.

Every operation of the interpreter makes a type and a tensor. Most of what they hold depends on the element
type and the shape alone, and making it took a third of a kernel's time.
"""

from __future__ import annotations

import math
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

SHAPE, COUNT = "_diffgdn_shape", "_diffgdn_numel"  # of a block type: what its tensors carry
SIZES = "_diffgdn_sizes"  # of a block type: its shape in plain integers


def types_are_made_anew() -> bool:
    """Probe whether two equal block types do not share their shape."""
    return tl.block_type(tl.float32, [2]).shape is not tl.block_type(tl.float32, [2]).shape


def keep_types() -> None:
    """Let block types, tensors and numpy's types be looked up where they were made before."""
    _keep_block_types()
    _keep_numpy_types()
    interpreter.TensorHandle.__post_init__ = lambda self: None  # an assertion about the interpreter itself


def _keep_block_types() -> None:
    made: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    original = tl.block_type.__init__

    def init_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(size.value if isinstance(size, tl.constexpr) else size for size in shape)
        key = element_ty.name, sizes
        if key not in made:
            original(self, element_ty, list(sizes))
            shared = [tl.constexpr(size) for size in sizes]
            made[key] = {
                **vars(self),
                SHAPE: tl.tuple(shared),
                COUNT: tl.constexpr(math.prod(sizes)),
                SIZES: sizes,
            }
        vars(self).update(made[key])
        self.element_ty = element_ty

    nothing = tl.tuple([]), tl.constexpr(1)

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        kept = vars(type)
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = (kept[SHAPE], kept[COUNT]) if SHAPE in kept else nothing

    tl.block_type.__init__ = init_type
    tl.tensor.__init__ = init_tensor


def _keep_numpy_types() -> None:
    original = interpreter._get_np_dtype
    found: dict[str, Any] = {}

    def get_np_dtype(type_: Any) -> Any:
        name = type_.scalar.name
        if name not in found:
            found[name] = original(type_.scalar)
        return found[name]

    interpreter._get_np_dtype = get_np_dtype
