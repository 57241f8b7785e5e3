"""Jobs as Redis keeps them."""
