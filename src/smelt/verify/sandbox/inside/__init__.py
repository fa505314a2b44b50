"""What runs inside the box: standard library only, and nothing of smelt outside this folder."""
