"""Small verifiable problems, one file for each skill, that combined tasks are made of."""
