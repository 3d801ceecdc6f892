"""What can be asked: operations, a case, a trace of calls, their JSON and their limits. Imports no torch."""
