"""Exports with their proof of parity."""
