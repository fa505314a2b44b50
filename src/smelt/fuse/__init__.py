"""Fusion across tokenizers: logit stores, alignment, combined targets."""
