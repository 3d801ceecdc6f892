"""Looking for a case that fails, and making it smaller."""
