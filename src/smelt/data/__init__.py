"""Curation: sources, filters, duplicates, splits, contamination, a reason for each drop."""
