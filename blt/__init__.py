"""Byte Latent Transformer: data, patch boundaries, models and scores."""

from blt.version import __version__

__all__ = ["__version__"]
