"""The engine: documents in, per-document results out, at the speed of the hardware.

Which documents share a batch, how long a row is and where a document is cut are matters of the
engine alone; no result shows them. An engine is imported when it is first asked for: that of an
n-gram model needs no Keras.
"""

from typing import Any

from blt.engine.line_engine import LineEngine
from blt.engine.loading import get_entropy_engine, import_engine_backend
from blt.engine.results import DocumentEntropies, Engine

__all__ = [
    "DocumentEntropies",
    "Engine",
    "EntropyEngine",
    "LineEngine",
    "get_entropy_engine",
    "import_engine_backend",
]


def __getattr__(name: str) -> Any:
    if name != "EntropyEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from blt.engine.entropy_engine import EntropyEngine

    return EntropyEngine
