"""Bytes out of a model: `generate`, and the model as it runs byte by byte."""

from blt.generation.generate import GenerationConfig, choose_token, generate

__all__ = ["GenerationConfig", "choose_token", "generate"]
