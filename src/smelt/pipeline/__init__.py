"""Runs of several verbs, for several seeds."""
