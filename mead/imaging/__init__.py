"""Pictures: reading those of strangers, colours, formats."""
