"""Sets of weights: published formats, conversion, download, verification."""
