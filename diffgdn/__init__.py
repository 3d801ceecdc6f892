"""Property-based differential testing for gated delta-rule attention kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffgdn import old_names

if TYPE_CHECKING:
    from diffgdn.cases.case import Case as Case
    from diffgdn.cases.promises import Promises as Promises
    from diffgdn.cases.spans import Span as Span
    from diffgdn.targets import FunctionTarget as FunctionTarget
    from diffgdn.targets import target as target

__version__ = "0.1.0"
__all__ = ["Case", "FunctionTarget", "Promises", "Span", "__version__", "target"]


old_names.install()


def __getattr__(name: str) -> Any:
    """Public names, imported when first asked for: a backend is chosen before torch and triton are
    imported."""
    if name == "Case":
        from diffgdn.cases.case import Case

        return Case
    if name in ("Promises", "Span"):
        from diffgdn.cases.promises import Promises
        from diffgdn.cases.spans import Span

        return {"Promises": Promises, "Span": Span}[name]
    if name in ("FunctionTarget", "target"):
        from diffgdn import targets

        return getattr(targets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
