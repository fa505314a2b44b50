"""Merging experts of one architecture, tensor by tensor."""
