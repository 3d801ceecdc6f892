"""The pool as a state machine: a small serving loop around a target's operations, and what must hold after
each of its steps.

`loop` does what an engine does around the kernels, `memory` holds the pool and the buffer that it owns,
`history` knows what each request's state and outputs must be, `play` runs a trace (`diffgdn.cases.trace`)
step after step. `search.traces` draws traces with Hypothesis and looks for one that fails.
"""
