"""The engine: documents in, per-document results out, at the speed of the hardware.

Which documents share a batch, how long a row is and where a document is cut are matters of the
engine alone; no result shows them.
"""

from blt.engine.entropy_engine import DocumentEntropies, EntropyEngine, get_entropy_engine

__all__ = ["DocumentEntropies", "EntropyEngine", "get_entropy_engine"]
