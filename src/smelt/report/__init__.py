"""The HTML report and the model cards, from run records only."""
