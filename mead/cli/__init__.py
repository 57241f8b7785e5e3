"""The command `mead`."""
