"""Looking for a serving trace that fails, and making it smaller."""
