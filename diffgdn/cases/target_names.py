"""Names of the targets that come with diffgdn, known without importing one, and where a released one lies.

A released package is a target by its name, `sglang`, which stands for what is installed. `sglang@PLACE` is
that of a wheel or a folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

OWN = ("vk", "kv", "eager")
RELEASED = ("sglang", "vllm", "fla", "fla-dispatch", "transformers", "flashkda", "flashqla", "flashinfer")
BUILT_IN = (*OWN, *RELEASED)
AT = "@"


def split(target: str) -> tuple[str, str | None]:
    """Split a target into its name and the place of a released package; None for what is installed."""
    name, separator, place = target.partition(AT)
    return (name, place) if separator and name in RELEASED and place else (target, None)


def at(target: str, place: str | None) -> str:
    """Name the released package of a target as it lies in a place, whatever place it had; None changes
    nothing.

    Raises ValueError for a target that is no released package.
    """
    if place is None:
        return target
    name, _ = split(target)
    if name not in RELEASED:
        raise ValueError(f"{target!r:.80} is no released package; those are {', '.join(RELEASED)}")
    return f"{name}{AT}{place}"


def clash(target: str, others: Iterable[str]) -> bool:
    """Tell whether others are another version of a target's package, of which a process has one."""
    name, place = split(target)
    if name not in RELEASED:
        return False
    return any(
        (other, where) != (name, place) and other.split("-")[0] == name.split("-")[0]
        for other, where in map(split, others)
    )


def label(target: str) -> str:
    """Shorten the place of a target to its last part, without what a wheel's name says of machines."""
    name, place = split(target)
    if place is None:
        return target
    last = PurePath(place).name
    return f"{name}{AT}{'-'.join(last.split('-')[:2]) if last.endswith('.whl') else last}"


def spellings(target: str) -> tuple[str, ...]:
    """List what a table or an entry may call a target: all of it, what follows the colon, its bare name."""
    name, place = split(target)
    return (target, target.rpartition(":")[2]) if place is None else (target, name)
