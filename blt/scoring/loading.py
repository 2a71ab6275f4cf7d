"""Scorers by model file: a process makes each once, and its forward passes take turns."""

import dataclasses
import threading

from blt.dataset.joining import check_entropy_fingerprint
from blt.dataset.storage import Place, PlaceLike, as_place, file_version
from blt.engine import Engine, get_entropy_engine
from blt.engine.options import FLOAT32
from blt.engine.precision import choose_precision
from blt.errors import UserError
from blt.model.blt import load_blt
from blt.model.serialization import read_model_class
from blt.ngram.model import is_ngram_path
from blt.patching.rules import PatchRule
from blt.scoring.blt_scorer import BltScorer
from blt.scoring.entropy_scorer import EntropyScorer


@dataclasses.dataclass(frozen=True)
class LoadedScorer:
    """A scorer, and what cuts patches for it where no boundaries are given.

    Attributes:
      scorer: of the model.
      role: of the model in fingerprints: "blt" or "entropy_model".
      engine: of the entropy model that belongs to a BLT; None if there is none at hand.
      rule: of its patches; None if it is not known.
      lock: to be held while scoring: models are not made for several threads at a time.
    """

    scorer: BltScorer | EntropyScorer
    role: str
    engine: Engine | None
    rule: PatchRule | None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the model, and of the entropy model that its patches need."""
        found = {self.role: self.scorer.fingerprint}
        if self.scorer.entropy_fingerprint:
            found["entropy_model"] = self.scorer.entropy_fingerprint
        return found


_loaded: dict[tuple, LoadedScorer] = {}
_lock = threading.Lock()


def get_scorer(
    model: PlaceLike,
    *,
    entropy_model: PlaceLike | None = None,
    min_context: int | None = None,
    precision: str = FLOAT32,
    xz: bool = False,
    num_threads: int | None = None,
) -> LoadedScorer:
    """Returns the scorer of a model file, which a process loads once.

    Args:
      model: a BLT or an entropy model.
      entropy_model: the one that cuts patches for a BLT that does not hold its own.
      min_context: tokens of context that each byte has in a BLT's windows; None for half a window.
      precision: of the model's layers: "float32", "bfloat16", or "auto": see
        `blt.engine.precision`. An entropy model that cuts patches for a BLT has the same.
      xz: also compress documents with xz.
      num_threads: of the entropy model's engine; see `EntropyEngine`.

    Raises:
      UserError: a file is no model, or the entropy model is not the one that the BLT needs.
    """
    model = as_place(model).resolve()
    entropy_model = None if entropy_model is None else as_place(entropy_model)
    options = (entropy_model, min_context, precision, xz, num_threads)
    with _lock:
        entropy_version = None if entropy_model is None else file_version(entropy_model)
        key = (model, file_version(model), entropy_version, *options)
        if key not in _loaded:
            _loaded[key] = _load(model, *options)
        return _loaded[key]


def _load(
    model: Place,
    entropy_model: Place | None,
    min_context: int | None,
    precision: str,
    xz: bool,
    num_threads: int | None,
) -> LoadedScorer:
    if is_ngram_path(model) or read_model_class(model) == "EntropyModel":
        if min_context is not None:
            raise UserError("--min-context: is for a BLT; an entropy model has no windows.")
        engine = get_entropy_engine(model, precision=precision, num_threads=num_threads)
        return LoadedScorer(EntropyScorer(engine, xz=xz), "entropy_model", engine, None)
    blt = load_blt(model)
    precision = choose_precision(precision, blt)
    scorer = BltScorer(blt, min_context=min_context, precision=precision, xz=xz)
    engine = None
    if entropy_model is not None:
        engine = get_entropy_engine(entropy_model, precision=precision, num_threads=num_threads)
        check_entropy_fingerprint(str(model), scorer.entropy_fingerprint, engine.fingerprint)
    elif blt.entropy_model is not None:
        from blt.engine import EntropyEngine

        engine = EntropyEngine(blt.entropy_model, precision=precision, num_threads=num_threads)
    return LoadedScorer(scorer, "blt", engine, blt.patch_rule)
