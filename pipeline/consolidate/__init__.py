"""A boundary in, a candidate out."""
