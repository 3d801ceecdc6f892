"""Checks of slots for each token: the state after each step of a sequence goes to a slot of its own."""

from . import arguments as check


def check_token_slots(slots, N, needed, fits):
    """Check that slots are [N, steps], int32 or int64, with `needed` steps at least.

    fits: by name of each other argument, whether it goes with such slots. Raises ValueError or TypeError.
    """
    name = "initial_state_indices"
    check.tensor(name, slots, check.INTEGERS, ndim=2)
    if slots.shape[0] != N or slots.shape[1] < max(1, needed):
        expected = f"shape [N, steps] with N = {N} and {max(1, needed)} steps or more"
        raise check.wrong_value(name, expected, tuple(slots.shape))
    expected = {
        "initial_state_source": ("a pool", "None"),
        "intermediate_states_buffer": ("None", "a tensor"),
        "retrieve_parent_token": ("None", "a tensor"),
        "disable_state_update": ("False", "True"),
    }
    for other, right in fits.items():
        if not right:
            wanted, came = expected[other]
            raise check.wrong_value(other, f"{wanted} with {name} of two dimensions", came)


def check_accepted(accepted, N, token_slots):
    """Check that the counts are [N], int32 or int64, and that there are slots for each token."""
    name = "num_accepted_tokens"
    check.indices(name, accepted, N)
    if not token_slots:
        raise check.wrong_value(name, "None without initial_state_indices of two dimensions", "a tensor")


def values_of_token_slots(slots, accepted, lengths, rows):
    """Check the values: counts from 1 to the steps; slots that are used below `rows`, and none used twice.

    Used are a sequence's start and the slots of its steps, of which its start may be one; padding uses none.
    Raises ValueError.
    """
    name, steps = "initial_state_indices", slots.shape[1]
    counts = [1] * len(lengths) if accepted is None else accepted.tolist()
    used = set()
    for n, (row, count, length) in enumerate(zip(slots.tolist(), counts, lengths, strict=True)):
        if not 1 <= count <= steps:
            raise check.wrong_value("num_accepted_tokens", f"entry {n} from 1 to {steps}", count)
        start = row[count - 1]
        if start < 0:
            continue
        written = [slot for slot in row[:length] if slot >= 0]
        own = {start, *written}
        if max(own) >= rows:
            expected = f"indices below {rows}, the number of rows of initial_state_source"
            raise check.wrong_value(name, expected, max(own))
        if len(set(written)) < len(written) or own & used:
            expected = "distinct live indices, because initial_state_source is written"
            raise check.wrong_value(name, expected, f"one twice, the second time in row {n}")
        used |= own
