"""How models relate: families, likely bases, differences per layer (`smelt inspect`)."""
