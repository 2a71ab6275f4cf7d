"""The engine of a model file; a process loads each file once."""

import os
import threading
from pathlib import Path

from blt.engine.results import Engine
from blt.ngram.model import is_ngram_path
from blt.quiet import import_keras

_engines: dict[tuple, Engine] = {}
_engines_lock = threading.Lock()


def get_entropy_engine(path: str | os.PathLike[str]) -> Engine:
    """Returns the engine of a model file; a process loads each file once.

    Args:
      path: an entropy model, or an n-gram model if the name ends with `.ngram`.

    Raises:
      UserError: as `load_entropy_model` or `load_ngram`.
    """
    path = Path(path).resolve()
    with _engines_lock:
        stat = path.stat() if path.exists() else None
        key = (path, stat and stat.st_mtime_ns, stat and stat.st_size)
        if key not in _engines:
            _engines[key] = _load(path)
        return _engines[key]


def _load(path: Path) -> Engine:
    if is_ngram_path(path):
        from blt.ngram.engine import NgramEngine
        from blt.ngram.model import load_ngram

        return NgramEngine(load_ngram(path))
    from blt.engine.entropy_engine import EntropyEngine
    from blt.model.serialization import load_entropy_model

    return EntropyEngine(load_entropy_model(path))


def import_engine_backend(path: str | os.PathLike[str] | None, *, verbose: bool = False) -> None:
    """Imports what the engine of a model file needs, without noise: Keras, or nothing at all."""
    if path is not None and not is_ngram_path(path):
        import_keras(verbose=verbose)
