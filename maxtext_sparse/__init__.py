"""Sparse pre-training of language models in MaxText, by gradual magnitude pruning."""

__version__ = "0.1.0"
