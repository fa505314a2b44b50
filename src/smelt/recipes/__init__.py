"""Recipes that ship with smelt."""
