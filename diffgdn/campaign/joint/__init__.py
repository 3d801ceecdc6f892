"""One campaign on many machines at once: a part in each seat, their events joined."""
