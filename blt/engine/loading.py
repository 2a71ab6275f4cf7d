"""The engine of a model file; a process loads each file once."""

import os
import threading
from pathlib import Path

from blt.engine.entropy_engine import EntropyEngine
from blt.model.serialization import load_entropy_model

_engines: dict[tuple, EntropyEngine] = {}
_engines_lock = threading.Lock()


def get_entropy_engine(path: str | os.PathLike[str]) -> EntropyEngine:
    """Returns the engine of a model file; a process loads each file once.

    Raises:
      UserError: as `load_entropy_model`.
    """
    path = Path(path).resolve()
    with _engines_lock:
        stat = path.stat() if path.exists() else None
        key = (path, stat and stat.st_mtime_ns, stat and stat.st_size)
        if key not in _engines:
            _engines[key] = EntropyEngine(load_entropy_model(path))
        return _engines[key]
