"""The pool as a state machine: a small serving loop around a target's operations, and what must hold after
each of its steps.

`loop` is what an engine does around the kernels, `memory` the pool and the buffer that it owns, `history`
what each request's state and outputs must be, `play` runs a trace (`diffgdn.cases.trace`) step after step,
`machine` draws traces with Hypothesis, `search` looks for one that fails.
"""
