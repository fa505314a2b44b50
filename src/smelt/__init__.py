"""smelt: small reasoning models, melted together. Each verb is a function in `smelt.verbs`."""

__version__ = "0.1.0"
