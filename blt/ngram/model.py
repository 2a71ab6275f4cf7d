"""An n-gram model and its file, `model.ngram`.

The file is one of safetensors: a JSON header with the config, and arrays. Reading one runs no code.

    dense      [260, 260, 3]  float32  what is said after two ids; before PAD, after one
    records.k  [slots, 4]     uint32   the hash table of the grams of k ids, k from 3 to order + 1
    seeds.k    [buckets]      uint16   see `blt.ngram.table`

What is said of a gram is three numbers, float32: `log_share`, `log_backoff` and `entropy`, as
`blt.ngram.smoothing.Level` explains them. For a gram that is not there, they are those of the
longest suffix that is.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from blt.dataset.storage import PlaceLike, as_place, atomic_path, kept_copy, place_errors, stat
from blt.errors import UserError
from blt.ngram.config import NgramConfig
from blt.ngram.counting import GramCounts
from blt.ngram.grams import (
    MAX_ORDER,
    append_ids,
    last_ids,
    newest_ids,
    oldest_ids,
    pack_grams,
)
from blt.ngram.smoothing import (
    FREE_LENGTH,
    Level,
    count_lengths,
    min_count_that_fits,
    smooth,
)
from blt.ngram.table import RECORD_WORDS, Table, build_table, max_table_bytes
from blt.tokenizer import PAD_ID, VOCAB_SIZE

SUFFIX = ".ngram"
KIND = "blt n-gram entropy model"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 16 << 30
VALUES = 3  # log_share, log_backoff, entropy
_DENSE_BYTES = 4 * VOCAB_SIZE * VOCAB_SIZE * VALUES
_MAX_HEADER_BYTES = 10_000
_METADATA_KEY = "blt"
_MADE_BY = "Make one with `blt train-ngram`."


@dataclasses.dataclass(frozen=True)
class NgramModel:
    """A model.

    Attributes:
      order: ids of context that it looks back at most.
      config: how it was made, as JSON: `NgramConfig`, with the `min_count` that was needed, and
        what was counted (`documents`, `bytes`) and kept (`grams`, by number of ids from 1).
      dense: [260, 260, 3] float32, for the last two ids (older, newer); older = PAD: for one id.
      tables: of the grams of 3, 4, … order + 1 ids.
    """

    order: int
    config: dict[str, Any]
    dense: np.ndarray
    tables: tuple[Table, ...]

    @property
    def max_length(self) -> int:
        """Ids in the longest gram."""
        return self.order + 1

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays by their names in the file."""
        arrays = {"dense": self.dense}
        for length, table in enumerate(self.tables, FREE_LENGTH + 1):
            arrays |= {f"records.{length}": table.records, f"seeds.{length}": table.seeds}
        return arrays

    def find(self, grams: np.ndarray) -> np.ndarray:
        """Looks up the longest known gram that each gram ends with.

        Args:
          grams: [n] uint64, each of `max_length` ids; PAD stands for what is before a document.

        Returns:
          [n, 3] float32: what is said of it.
        """
        found = np.empty((len(grams), RECORD_WORDS), np.uint32)
        places = np.arange(len(grams))  # of the grams of which nothing was found yet
        for length in range(self.max_length, FREE_LENGTH, -1):
            table = self.tables[length - FREE_LENGTH - 1]
            records, matches = table.find(last_ids(grams, length))
            if length == self.max_length:
                found = records
            else:
                found[places[matches]] = records[matches]
            places, grams = places[~matches], grams[~matches]
        values = found[:, 1:].view(np.float32)
        values[places] = self.dense[oldest_ids(grams, 2), newest_ids(grams)]
        return values

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """Returns [260] float64: p of each id after `context`, [num_ids] ids, BOS first."""
        context = np.asarray(context, np.uint64)
        before = pack_grams(context, self.max_length)[-1:]
        ids = np.arange(VOCAB_SIZE, dtype=np.uint64)
        after = last_ids(append_ids(before, ids), self.max_length)
        log_shares = self.find(after)[:, 0].astype(np.float64)
        return np.exp(log_shares + float(self.find(before)[0, 1]))


def build_model(counts: GramCounts, config: NgramConfig) -> NgramModel:
    """Makes the model of what was counted.

    Args:
      counts: of grams of `config.order + 1` ids.
      config: how. `min_count` is raised until `max_megabytes` are kept.
    """
    counted = count_lengths(counts, config.order)
    max_bytes = config.max_megabytes * 1e6 - _DENSE_BYTES - _MAX_HEADER_BYTES
    max_grams = int(max_bytes / max_table_bytes(1000) * 1000)
    min_count = min_count_that_fits(counted, config.min_count, max_grams)
    levels = smooth(counted, min_count)
    dense = np.broadcast_to(_values(levels[1]), (VOCAB_SIZE, VOCAB_SIZE, VALUES)).copy()
    two = levels[2].grams
    dense[oldest_ids(two, 2), newest_ids(two)] = _values(levels[2])
    # The same is said of an id after PAD, which is no id of a document, as of the id alone.
    dense[PAD_ID] = _values(levels[1])
    return NgramModel(
        order=config.order,
        config={
            **dataclasses.asdict(config),
            "min_count": min_count,
            "documents": counts.num_documents,
            "bytes": counts.num_bytes,
            "grams": [len(level.grams) for level in levels[1:]],
        },
        dense=dense,
        tables=tuple(build_table(level.grams, _values(level)) for level in levels[3:]),
    )


def _values(level: Level) -> np.ndarray:
    values = np.stack([level.log_share, level.log_backoff, level.entropy], axis=1)
    return values.astype(np.float32)


def fingerprint(model: NgramModel) -> str:
    """Returns what identifies the function that a model computes: 64 hex digits.

    sha256 over the class, the order, and every array by its name; not over how it was made.
    """
    described = {"class": "NgramModel", "config": _identity(model)}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode())
    for name, array in sorted(model.arrays().items()):
        digest.update(f"\n{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _identity(model: NgramModel) -> dict[str, Any]:
    return {"order": model.order, "salts": [table.salt for table in model.tables]}


def is_ngram_path(place: PlaceLike) -> bool:
    """Tells by its name whether a file is an n-gram model, if it is a model at all."""
    return as_place(place).suffix == SUFFIX


def check_ngram_name(place: PlaceLike) -> None:
    """Raises UserError unless the name is that of an n-gram model's file."""
    if not is_ngram_path(place):
        raise UserError(f"{place}: an n-gram model's file name ends with {SUFFIX}; name it so.")


def save_ngram(model: NgramModel, place: PlaceLike) -> None:
    """Writes a model file, atomically. Equal models give equal bytes.

    Raises:
      UserError: the name does not end with `.ngram`.
      WorkError: it cannot be written.
    """
    check_ngram_name(place)
    described = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        **_identity(model),
        "config": model.config,
    }
    # One entry: the order of several would be the hash's of the day.
    metadata = {_METADATA_KEY: json.dumps(described, sort_keys=True)}
    with atomic_path(place) as temporary:
        temporary.write_bytes(safetensors.numpy.save(model.arrays(), metadata=metadata))


def load_ngram(place: PlaceLike) -> NgramModel:
    """Reads a model file; one of a store comes to this machine once.

    Raises:
      UserError: the file is missing, too large, damaged, or holds something else.
    """
    place = as_place(place)
    with place_errors(place):
        if not place.is_file():
            what = "is a folder" if place.is_dir() else "no such file"
            raise UserError(f"{place}: {what}; an n-gram model is needed. {_MADE_BY}")
        size = stat(place).size
    if size > MAX_FILE_BYTES:
        raise UserError(f"{place}: model files over {MAX_FILE_BYTES} bytes are not read.")
    with kept_copy(place) as path:
        return _load(path)


def _load(path: Path) -> NgramModel:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            described = json.loads((file.metadata() or {})[_METADATA_KEY])
            if described["kind"] != KIND:
                raise ValueError(f"its kind is {str(described['kind'])[:80]!r}")
            version = described["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{path}: format version {version!r:.20}, but this program reads version "
                    f"{FORMAT_VERSION}. Use the blt that made it."
                )
            return _read_model(file, described)
    except (OSError, safetensors.SafetensorError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not an n-gram model, or damaged ({reason}). {_MADE_BY}"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error} in it" if isinstance(error, KeyError) else str(error)[:200]
        raise UserError(f"{path}: not an n-gram model, or damaged ({what}). {_MADE_BY}") from error


def _read_model(file: Any, described: dict[str, Any]) -> NgramModel:
    """Makes the model of an open file; raises ValueError and the like where a field is wrong."""
    order, salts, config = described["order"], described["salts"], described["config"]
    if not isinstance(order, int) or not 1 <= order <= MAX_ORDER:
        raise ValueError("its order is out of range")
    if not isinstance(config, dict) or len(salts) != max(0, order + 1 - FREE_LENGTH):
        raise ValueError("its description does not fit its order")
    dense = _read_array(file, "dense", np.float32, (VOCAB_SIZE, VOCAB_SIZE, VALUES))
    _check_values(dense)
    tables = []
    for length, salt in enumerate(salts, FREE_LENGTH + 1):
        records = _read_array(file, f"records.{length}", np.uint32, (None, RECORD_WORDS))
        seeds = _read_array(file, f"seeds.{length}", np.uint16, (None,))
        if not isinstance(salt, int) or not 0 <= salt < 1 << 32:
            raise ValueError("a salt is out of range")
        if len(seeds) < 2 or len(seeds) & (len(seeds) - 1) or not 0 < len(records) < 1 << 32:
            raise ValueError(f"the sizes of table {length} are not those of a table")
        _check_values(records[:, 1:].view(np.float32))
        tables.append(Table(records, seeds, salt))
    return NgramModel(order, config, dense, tuple(tables))


def _read_array(file: Any, name: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    if name not in file.keys():  # noqa: SIM118 (an open file is no mapping)
        raise ValueError(f"there is no {name} in it")
    array = file.get_tensor(name)
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array


def _check_values(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("a number in it is not finite")
