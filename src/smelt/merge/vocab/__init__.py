"""Tokenizers and embedding rows of models whose vocabularies differ."""
