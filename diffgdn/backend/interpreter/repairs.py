"""List the repairs, and make them in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

# What the interpreter computes in another way than a GPU, for `diffgdn doctor`.
EMULATED = (
    "casts to bf16, fp16 and 8-bit floats round to nearest even; to integers they truncate and saturate",
    "arithmetic in bf16: each operation in fp32, then rounded",
    "tl.dot of fp32: tf32 (the default) drops 13 bits of each operand, tf32x3 adds three such products, "
    "ieee multiplies in fp32; sums in fp32, in another order than a GPU's",
    "libdevice functions: computed in float64, then rounded",
)
NOT_EMULATED = (
    "fused multiply-add where a compiler contracts a * b + c",
    "approximations of exp, exp2, sqrt, rsqrt, / and fast_* functions: those here are closer to the truth",
    "inline assembly; warps, barriers",
    "races between programs: they run one after another, in an order that the case says",
)


@dataclass(frozen=True)
class Repair:
    """Describe one thing that Triton's interpreter gets wrong, and its mend.

    Both functions are named as "module:function" of this package and imported late, as they import Triton.

    Attributes:
        name: a few words.
        versions: of Triton that need it.
        wrong: its probe: whether the Triton of this process gets it wrong, asked before any repair.
        mend: makes it right for the rest of the process.
    """

    name: str
    versions: str
    wrong: str
    mend: str

    def needed(self) -> bool:
        """Ask the probe whether the Triton of this process, as it is now, needs this repair."""
        return bool(_function(self.wrong)())

    def apply(self) -> None:
        """Mend it, for the rest of the process."""
        _function(self.mend)()


REPAIRS = (
    Repair(
        "builtins work under any name, and nested calls cost nothing",
        "3.6 and newer",
        "language:alias_is_unknown",
        "language:let_builtins_find_their_semantic",
    ),
    Repair("types are made once", "3.6 and newer", "types:types_are_made_anew", "types:keep_types"),
    Repair(
        "operands of one type are not converted to it",
        "3.6 and newer",
        "operand_types:rules_are_asked_each_time",
        "operand_types:settle_at_once",
    ),
    Repair(
        "32-bit integers wrap around, unchecked",
        "3.6 and newer",
        "language:overflow_is_checked",
        "language:let_integers_wrap",
    ),
    Repair(
        "arguments have their annotated types, and floats are fp32",
        "3.6 and newer",
        "launch:arguments_are_untyped",
        "launch:type_arguments",
    ),
    Repair(
        "loop variables are tensors; and, or, not work on blocks; closures are seen",
        "3.6 and newer",
        "source:loop_variable_is_plain",
        "source:rewrite_as_compiled",
    ),
    Repair("casts round as a GPU's do", "3.6 and newer", "casts:bf16_is_truncated", "casts:round_to_nearest"),
    Repair("a fused multiply-add rounds once", "3.6 to 3.8", "fused:product_is_rounded", "fused:round_once"),
    Repair(
        "casts from and to 8-bit floats",
        "3.6 and newer",
        "eight_bits:ties_are_rounded_up",
        "eight_bits:round_to_nearest",
    ),
    Repair(
        "comparisons give truth values",
        "3.6 and newer",
        "truth_values:comparison_is_a_number",
        "truth_values:compare_to_truth_values",
    ),
    Repair(
        "sums of booleans are modulo 2",
        "3.6 to 3.8",
        "truth_values:sum_is_saturated",
        "truth_values:add_modulo_2",
    ),
    Repair(
        "exp, log and log2 within the error of CUDA's",
        "3.6 and newer",
        "functions:logarithm_is_rough",
        "functions:compute_in_float64",
    ),
    Repair(
        "maximum, minimum and clamp pass over NaN and order zeros",
        "3.6 and newer",
        "functions:zeros_are_unordered",
        "functions:order_as_ptx",
    ),
    Repair(
        "umulhi is unsigned", "3.6 to 3.8", "functions:high_half_is_signed", "functions:multiply_unsigned"
    ),
    Repair(
        "bf16 operands are numbers, not bits",
        "3.6 and newer",
        "arithmetic:bf16_adds_bits",
        "arithmetic:compute_bf16_in_fp32",
    ),
    Repair(
        "tl.dot in bf16 and tf32",
        "3.6 and newer",
        "dots:bf16_multiplies_bits",
        "dots:multiply_as_tensor_cores",
    ),
    Repair(
        "reductions and scans of bf16, of NaN, and with any combine function at the speed of arrays",
        "3.6 and newer",
        "reductions:bf16_sums_bits",
        "reductions:reduce_by_slices",
    ),
    Repair("atomic addition of bf16", "3.6 and newer", "atomics:bf16_is_refused", "atomics:add_bf16"),
    Repair(
        "libdevice functions",
        "3.6 and newer",
        "libdevice:functions_are_missing",
        "libdevice:compute_in_float64",
    ),
    Repair(
        "torch's device guards and streams around CPU tensors",
        "torch 2.11 and newer",
        "devices:guard_is_missing",
        "devices:ignore_for_cpu_tensors",
    ),
)

_repaired = False


def needed() -> dict[str, bool]:
    """Ask whether each repair is needed, by name; call it before `repair`, in a process that interprets."""
    return {repair.name: repair.needed() for repair in REPAIRS}


def repair() -> None:
    """Make every repair that the Triton of this process needs; later calls do nothing.

    Call it before the first kernel. The process must have entered the interpreter (TRITON_INTERPRET=1
    before Triton's import).
    """
    global _repaired
    if _repaired:
        return
    _repaired = True
    wanted = [one for one in REPAIRS if one.needed()]
    for one in wanted:
        one.apply()


# Parts of a message, and the line that says what it means.
EXPLAINED = (
    (
        "Block pointers have been removed",
        "block pointers (tl.make_block_ptr) were removed in Triton 3.9; this kernel needs Triton 3.6 to 3.8",
    ),
    (
        "inline_asm not supported",
        "inline assembly is for one GPU; Triton's interpreter cannot run it, so test this kernel on a GPU",
    ),
)


def explain(message: str) -> str:
    """Put a line in plain words before a message of the interpreter, if one is known for it."""
    for part, line in EXPLAINED:
        if part in message and line not in message:
            return f"{line} ({message})"
    return message


def _function(name: str) -> Callable[[], object]:
    """Import what a "module:function" of this package names."""
    module, _, function = name.partition(":")
    found: Callable[[], object] = getattr(import_module(f"diffgdn.backend.interpreter.{module}"), function)
    return found
