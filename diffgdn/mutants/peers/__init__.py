"""Would the tests of other projects have seen a mutant: their shapes, laws and tolerances, re-created."""
