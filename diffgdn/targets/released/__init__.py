"""Released packages by name: what each needs, takes and promises, and where it was found."""
