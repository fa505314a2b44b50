"""Fusion losses, one file each."""
