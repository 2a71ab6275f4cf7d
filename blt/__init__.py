"""Byte Latent Transformer: data, patch boundaries, models and scores."""

__version__ = "0.1.0"
