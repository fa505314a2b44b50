"""Rules that keep or drop documents, one file a filter."""
