"""Pictures: reading uploads safely, colours, file formats."""
