"""The engine: documents in, per-document results out, at the speed of the hardware.

Which documents share a batch, how long a row is and where a document is cut are matters of the
engine alone; no result shows them.
"""

from blt.engine.entropy_engine import EntropyEngine
from blt.engine.loading import get_entropy_engine
from blt.engine.results import DocumentEntropies, Engine

__all__ = ["DocumentEntropies", "Engine", "EntropyEngine", "get_entropy_engine"]
