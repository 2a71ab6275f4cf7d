"""From counts to a model file, and what the model makes of text that was not counted."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from blt.dataset.several import Datasets
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.splits import is_held_out
from blt.dataset.storage import Place, stat
from blt.errors import UserError
from blt.formats.byte_shard import ByteRecord, read_byte_shard
from blt.ngram.config import NgramConfig
from blt.ngram.counting import GramCounts
from blt.ngram.engine import NgramEngine
from blt.ngram.model import build_model, save_ngram
from blt.tokenizer import BYTE_OFFSET

MAX_HELD_OUT_TOKENS = 10_000_000


def write_ngram_model(
    counts: GramCounts, data: Datasets, output: Place, config: NgramConfig
) -> dict[str, Any]:
    """Makes the model of what was counted in a dataset and writes it.

    Args:
      counts: of grams of `config.order + 1` ids.
      data: the byte shards they are of; their held-out documents are scored.
      output: the file, `….ngram`.
      config: how to make it.

    Returns:
      `documents` and `bytes` counted, `grams`, `min_count`, `megabytes`, `fingerprint`, and
      `held_out_bits_per_byte`, None if no document is held out.

    Raises:
      UserError: there is no text, or the output's name is not that of an n-gram model.
    """
    if not counts.num_bytes:
        raise UserError(
            f"{data.where}: no text to count. Encode some, hold out less of it, or raise "
            "--sample-bytes."
        )
    model = build_model(counts, config)
    save_ngram(model, output)
    engine = NgramEngine(model)
    return {
        "documents": counts.num_documents,
        "bytes": counts.num_bytes,
        "grams": sum(model.config["grams"]),
        "min_count": model.config["min_count"],
        "megabytes": round(stat(output).size / 1e6, 3),
        "fingerprint": engine.fingerprint,
        "held_out_bits_per_byte": _held_out_bits_per_byte(data, engine, config),
    }


def _held_out_bits_per_byte(
    data: Datasets, engine: NgramEngine, config: NgramConfig
) -> float | None:
    nats, num_bytes = 0.0, 0
    with ShardFeed(data) as feed:
        for result in engine.run(_held_out_parts(feed, config)):
            is_byte = result.key.tokens >= BYTE_OFFSET
            nats += float(result.token_nats[is_byte].sum(dtype=np.float64))
            num_bytes += int(np.count_nonzero(is_byte))
    return nats / num_bytes / math.log(2) if num_bytes else None


def _held_out_parts(
    feed: ShardFeed, config: NgramConfig
) -> Iterator[tuple[ByteRecord, np.ndarray, bool]]:
    """Yields the held-out records, until there are enough of each dataset."""
    for names, wanted in feed.shared(MAX_HELD_OUT_TOKENS):
        taken = 0
        for index, name in enumerate(names):
            for record in feed.read([name], read_byte_shard, then=names[index + 1 :]):
                if is_held_out(record.doc_id, fraction=config.valid_fraction, seed=config.seed):
                    yield record, record.tokens, record.part > 0
                    taken += len(record.tokens)
            if taken >= wanted:
                break
