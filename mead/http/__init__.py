"""The HTTP API: what answers requests."""
