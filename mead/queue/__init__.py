"""Jobs and workers in Redis."""
