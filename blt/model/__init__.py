"""The models, and their files; `keras.ops` alone, on every backend."""

from blt.model.entropy_model import EntropyModel

__all__ = ["EntropyModel"]
