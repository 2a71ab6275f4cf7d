"""Small artefacts as stages leave them, made by the real writers, for report and inspection."""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from blt.dataset.manifest import Manifest, write_manifest
from blt.dataset.rejects import merge_rejects, open_rejects
from blt.dataset.storage import atomic_path, sha256_file, write_json
from blt.dataset.units import ShardInfo
from blt.formats.boundaries import BoundariesRow, BoundariesWriter, store_entropies
from blt.formats.byte_shard import ByteRecord, ByteShardWriter
from blt.formats.scores import ScoresRow, ScoresWriter
from blt.scoring.summary import summarize_scores
from blt.tokenizer import frame_tokens

HOSTILE_ID = "<script>alert('id')</script>\x1b[31m\u202e"
HOSTILE = b'<script>alert(1)</script> & "q" | \x1b[31m\xff\n\tnext ' + "é\u202e\u200b".encode()
DOCUMENTS = {
    "fox": b"The quick brown fox jumps over the lazy dog, twice and again. " * 2,
    "empty": b"",
    HOSTILE_ID: HOSTILE * 3,
    "repeats": b"again and " * 300,
    "zh": "字节潜在变换器".encode() * 8,
}
PATCH_BYTES = 4
ENTROPY_MODEL = "e" * 64


def write_bytes(folder: Path, documents: dict[str, bytes] = DOCUMENTS) -> Manifest:
    """Writes byte shards of one unit, and two rejects."""
    folder.mkdir(parents=True)
    path = folder / "bytes-00000-000.tfrecord"
    with atomic_path(path) as temporary:
        writer = ByteShardWriter(temporary, name=path.name)
        for doc_id, text in documents.items():
            writer.write(ByteRecord(doc_id, frame_tokens(text), source="in.jsonl"))
        shard = writer.close()
    rejects = folder / "r.parquet"
    with open_rejects(rejects) as writer:
        row = {"source": "in.jsonl", "reason": "invalid_json", "detail": "no \x1b]0;title"}
        writer.add(**row, position=7, sample=b"{\x1b[2J")
        writer.add(**row, position=9)
    merge_rejects([rejects], folder / "_rejects.parquet")
    rejects.unlink()
    totals = {"documents": shard.documents, "bytes": shard.bytes, "tokens": shard.tokens}
    return write_manifest(
        folder,
        kind="byte_shards",
        config={"input": ["in.jsonl"], "text_field": "text", "id_field": None},
        fingerprints={},
        parents={},
        totals={**totals, "rejects": 2, "filtered": 0, "records": shard.documents + 2},
        shards=[shard],
    )


def patch_lengths(num_tokens: int) -> np.ndarray:
    """BOS alone, then patches of `PATCH_BYTES`."""
    starts = np.arange(1, num_tokens, PATCH_BYTES)
    return np.diff(np.concatenate([[0], starts, [num_tokens]])).astype(np.int32)


def write_patches(
    folder: Path,
    data: Manifest,
    *,
    entropies: bool = True,
    documents: dict[str, bytes] = DOCUMENTS,
) -> Manifest:
    """Writes boundaries of `write_bytes`, with entropies that rise by 0.01 nats a token."""
    folder.mkdir(parents=True)
    path = folder / "patches-00000-000.parquet"
    kept = "f16" if entropies else None
    num_patches = 0
    with atomic_path(path) as temporary:
        metadata = {
            "rule": "static",
            "byte_shard_sha256": data.shards[0].sha256,
            "entropy_model": ENTROPY_MODEL,
        }
        writer = BoundariesWriter(temporary, metadata=metadata, keep_entropies=kept)
        for doc_id, text in documents.items():
            size = len(text) + 2
            lengths = patch_lengths(size)
            num_patches += math.ceil(len(text) / PATCH_BYTES)
            nats = np.arange(size, dtype=np.float32) / 100
            stored = store_entropies(nats, kept) if kept else None
            writer.write(BoundariesRow(doc_id, 0, size, lengths, 1.0, 0.0, stored))
        writer.close()
    totals = {name: data.totals[name] for name in ("documents", "bytes", "tokens")}
    return write_manifest(
        folder,
        kind="boundaries",
        config={"rule": "static", "patch_size": PATCH_BYTES},
        fingerprints={"entropy_model": ENTROPY_MODEL},
        parents={"byte_shards": data.sha256},
        totals={**totals, "patches": num_patches, "boundaries_inside_characters": 1},
        shards=[ShardInfo(name=path.name, sha256=sha256_file(path), **totals)],
    )


def write_history(path: Path) -> None:
    records = [
        {"step": step, "kilobytes": step * 8.0, "bits_per_byte": 8.0 - step / 10, "nats": 5.0}
        for step in range(1, 31)
    ]
    records[14]["held_out_bits_per_byte"] = 6.75
    records[29]["held_out_bits_per_byte"] = 5.25
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_scores(
    folder: Path,
    data: Manifest,
    patches: Manifest,
    *,
    role: str = "blt",
    bits: float = 4.0,
    documents: dict[str, bytes] = DOCUMENTS,
    split: str = "valid",
    trained_on: dict[str, int] | None = None,
) -> Manifest:
    """Writes scores in which each document takes `bits` per byte, and its place in 1/100 more."""
    folder.mkdir(parents=True)
    path = folder / "scores-00000-000.parquet"
    spec = {"model": role, "window": 512, **({} if role == "blt" else {"num_layers": 2})}
    writer = ScoresWriter(path, metadata={"score_spec": json.dumps(spec)})
    for place, (doc_id, text) in enumerate(documents.items()):
        writer.write(
            ScoresRow(
                doc_id=doc_id,
                num_bytes=len(text),
                scored_bytes=len(text),
                nats=(bits + place / 100) * math.log(2) * len(text),
                eos_nats=1.0,
                num_patches=math.ceil(len(text) / PATCH_BYTES),
                zlib_bytes=len(zlib.compress(text, 6)),
                source="in.jsonl",
            )
        )
    writer.close()
    summary = summarize_scores([path], by=["source"])
    write_json(folder / "_summary.json", {"split": split, "trained_on": trained_on, **summary})
    totals = {"documents": len(documents), "bytes": data.totals["bytes"]}
    shard = ShardInfo(name=path.name, tokens=0, sha256=sha256_file(path), **totals)
    return write_manifest(
        folder,
        kind="scores",
        config={"split": split, "valid_fraction": 0.1, "seed": 0},
        fingerprints={role: "a" * 64},
        parents={"byte_shards": data.sha256, "boundaries": patches.sha256},
        totals=totals,
        shards=[shard],
    )


def write_run(
    folder: Path,
    *,
    entropies: bool = True,
    bits: float = 2.0,
    documents: dict[str, bytes] = DOCUMENTS,
) -> Path:
    """Writes what `blt run` leaves, but for the models."""
    data = write_bytes(folder / "bytes", documents)
    made = {"documents": documents}
    patches = write_patches(folder / "patches", data, entropies=entropies, **made)
    write_scores(folder / "scores-blt", data, patches, bits=bits, **made)
    entropy_model = {"role": "entropy_model", "bits": bits + 1}
    write_scores(folder / "scores-entropy", data, patches, **entropy_model, **made)
    write_history(folder / "entropy.keras.history.jsonl")
    (folder / "threshold.yaml").write_text("entropy_model: e\ntargets:\n- threshold_nats: 1.5\n")
    (folder / "blt").mkdir()
    write_history(folder / "blt" / "history.jsonl")
    write_manifest(
        folder / "blt",
        kind="blt_run",
        config={"preset": "tiny"},
        fingerprints={"blt": "a" * 64, "entropy_model": ENTROPY_MODEL},
        parents={},
        totals={},
        shards=[],
    )
    return folder
