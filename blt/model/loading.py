"""A model of either kind, from its file."""

from blt.dataset.storage import PlaceLike, as_place, place_errors
from blt.errors import UserError
from blt.model.blt import ByteLatentTransformer
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import load_model_file, read_model_class
from blt.ngram.model import is_ngram_path

_CLASSES = {each.__name__: each for each in (ByteLatentTransformer, EntropyModel)}
_OF_A_RUN = "model.keras"  # in the folder that `blt train` writes


def load_model(place: PlaceLike, *, compile: bool = True) -> ByteLatentTransformer | EntropyModel:
    """Reads a BLT or an entropy model, after checks that `keras.models.load_model` does not make.

    A file that is no such model, is damaged, asks for foreign classes, or holds NaN is refused with
    one line that says what to do. No code of a file is run (Keras's `safe_mode`).

    Args:
      place: a `.keras` file, or the folder that `blt train` wrote: a path, or a URL of a store.
      compile: as Keras's: whether a model that was saved compiled comes with its optimizer, loss
        and metrics.

    Raises:
      UserError: there is no such file, or it does not hold a model of ours that could be used.
    """
    place = as_place(place)
    with place_errors(place):
        if not place.is_file() and (place / _OF_A_RUN).is_file():
            place = place / _OF_A_RUN
    if is_ngram_path(place):
        raise UserError(
            f"{place}: an n-gram model is no Keras model. `blt.ngram.model.load_ngram` reads it, "
            "and `blt patch` and `blt score` take it as it is."
        )
    name = read_model_class(place)
    if name not in _CLASSES:
        raise UserError(
            f"{place}: holds a model of class {name!r}, not a BLT or an entropy model. "
            "`keras.models.load_model` may read it."
        )
    return load_model_file(place, _CLASSES[name], compile=compile)
