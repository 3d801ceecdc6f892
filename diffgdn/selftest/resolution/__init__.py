"""Measure how small an error is still found: by our verdict, and by the tolerances that kernel projects
test with.

One error at a time is put into correct results, at sizes from far too small to far too large. No kernel
runs: correct results are those of the reference computation, rounded wherever the contract allows it.
`injections` are the errors, `criteria` the questions; `smallest_error` finds the smallest size on one case,
`study` goes over many cases, `summary` makes the figures of them, and `result_table` shows those.
"""
