"""The engine of a model file; a process loads each file once."""

import os
import sys
import threading

from blt.cli.quiet import import_keras
from blt.dataset.storage import Place, PlaceLike, as_place, file_version
from blt.engine.options import FLOAT32
from blt.engine.results import Engine
from blt.ngram.model import is_ngram_path

_engines: dict[tuple, Engine] = {}
_engines_lock = threading.Lock()


def get_entropy_engine(
    place: PlaceLike, *, precision: str = FLOAT32, num_threads: int | None = None
) -> Engine:
    """Returns the engine of a model file; a process loads each file once.

    Args:
      place: an entropy model, or an n-gram model if the name ends with `.ngram`, for which the
        rest means nothing.
      precision: "float32", "bfloat16", or "auto": see `blt.engine.precision`.
      num_threads: see `EntropyEngine`.

    Raises:
      UserError: as `load_entropy_model` or `load_ngram`.
    """
    place = as_place(place).resolve()
    with _engines_lock:
        key = (place, file_version(place), precision, num_threads)
        if key not in _engines:
            _engines[key] = _load(place, precision, num_threads)
        return _engines[key]


def _load(place: Place, precision: str, num_threads: int | None) -> Engine:
    if is_ngram_path(place):
        from blt.ngram.engine import NgramEngine
        from blt.ngram.model import load_ngram

        return NgramEngine(load_ngram(place))
    from blt.engine.entropy_engine import EntropyEngine
    from blt.engine.precision import choose_precision
    from blt.model.serialization import load_entropy_model

    model = load_entropy_model(place)
    precision = choose_precision(precision, model)
    return EntropyEngine(model, precision=precision, num_threads=num_threads)


def import_engine_backend(
    place: PlaceLike | None, *, verbose: bool = False, owns_process: bool = False
) -> None:
    """Imports what the engine of a model file needs, without noise: Keras, or nothing at all.

    Args:
      owns_process: nothing but engines will use the backend in this process. They run as many
        threads as there are cores, so an operation of TensorFlow need not use several as well.
    """
    if place is None or is_ngram_path(place):
        return
    if owns_process and "tensorflow" not in sys.modules:  # it has read this by then
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    import_keras(verbose=verbose)
