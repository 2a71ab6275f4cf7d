"""Byte Latent Transformer: data, patch boundaries, models and scores.

The models are imported when they are first asked for: most of this package needs no Keras. Once
this package is imported, `keras.models.load_model` reads the files that it writes.
"""

from typing import Any

from blt.keras_names import register_names
from blt.version import __version__

__all__ = [
    "ByteLatentTransformer",
    "ByteTokenizer",
    "EntropyModel",
    "__version__",
    "create_blt_from_config",
    "load_model",
]

_HOMES = {
    "ByteLatentTransformer": "blt.model",
    "ByteTokenizer": "blt.tokenizer",
    "EntropyModel": "blt.model",
    "create_blt_from_config": "blt.model",
    "load_model": "blt.model",
}

register_names()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
