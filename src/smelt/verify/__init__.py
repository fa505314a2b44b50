"""Verifiers: one function a kind of answer, benchmark score and reward alike."""
