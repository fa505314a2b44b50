"""Benchmarks asked and scored, every answer kept."""
