"""Generated mutants that nothing can find where the interpreter runs them, with the reason."""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {}
