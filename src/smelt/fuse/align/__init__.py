"""Alignments of two tokenizations, one file each."""
