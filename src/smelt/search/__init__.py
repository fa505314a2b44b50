"""Search over merge parameters: the space, the loop, the journal."""
