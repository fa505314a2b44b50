"""A box for programs that nobody has read."""
