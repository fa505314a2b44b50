"""Errors, plug-in registry, strict recipes, result folders, seeds, progress."""
