"""Small byte datasets for tests."""

from pathlib import Path

from blt.dataset.manifest import Manifest, write_manifest
from blt.formats.byte_shard import ByteRecord, ByteShardWriter, byte_shard_name
from blt.tokenizer import frame_tokens


def write_byte_dataset(
    folder: Path, documents: dict[str, bytes], *, num_shards: int = 1, part_bytes: int = 1 << 20
) -> Manifest:
    """Writes documents as a dataset of byte shards, in parts of at most `part_bytes`."""
    folder.mkdir()
    items = list(documents.items())
    shards = []
    for unit in range(num_shards):
        writer = ByteShardWriter(folder / byte_shard_name(unit, 0))
        for doc_id, data in items[unit::num_shards]:
            pieces = [data[i : i + part_bytes] for i in range(0, len(data), part_bytes)] or [b""]
            for part, piece in enumerate(pieces):
                is_last = part == len(pieces) - 1
                tokens = frame_tokens(piece, add_bos=part == 0, add_eos=is_last)
                writer.write(ByteRecord(doc_id, tokens, part, len(pieces)))
        shards.append(writer.close())
    totals = {
        "documents": len(items),
        "bytes": sum(shard.bytes for shard in shards),
        "tokens": sum(shard.tokens for shard in shards),
    }
    return write_manifest(
        folder,
        kind="byte_shards",
        config={},
        fingerprints={},
        parents={},
        totals=totals,
        shards=shards,
    )
