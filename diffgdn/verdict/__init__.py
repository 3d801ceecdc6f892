"""One answer about one case: checks, comparison, relations, a serving loop's history."""
