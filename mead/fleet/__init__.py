"""A fleet of inference servers on a Ray cluster. The only package that imports Ray."""
