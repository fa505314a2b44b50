"""Networks: loading, fresh ones, scoring text, fitness, generation."""
