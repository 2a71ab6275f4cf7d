"""Text documents longer than a part: never whole in memory, and whole on the other side."""

import bz2
import gzip
import tracemalloc

import pytest

from blt.corpus import EncodeConfig, decode_dataset
from blt.corpus.files.blocks import SecondReading
from blt.corpus.files.discover import discover_inputs
from blt.corpus.planning.plan import build_plan
from blt.corpus.readers.registry import read_records
from blt.errors import WorkError
from tests.blt.corpus.helpers import encode, make_dataset

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("doc_per", ["file", "line", "paragraph"])
def test_long_documents_come_in_parts_and_back_whole(tmp_path, doc_per, suffix):
    lines = [b"%d " % i * (900 if i % 3 else 3) for i in range(9)]
    data = b"\n\n".join(lines)
    (tmp_path / f"a.txt{suffix}").write_bytes(PACK[suffix](data))
    options = {"doc_per": doc_per, "max_document_bytes": 100, "target_shard_bytes": 3000}
    dataset = make_dataset(tmp_path / "data", tmp_path / f"a.txt{suffix}", **options)
    counts = decode_dataset(dataset, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == data
    assert counts["documents"] == {"file": 1, "line": 17, "paragraph": 9}[doc_per]


def records_of(path, **options):
    config = EncodeConfig(**options)
    (payload,) = build_plan(discover_inputs([path]).files, config)
    return read_records(payload["files"][0], config, lambda n: None)


@pytest.mark.parametrize("doc_per", ["file", "line", "paragraph"])
def test_a_line_of_40_mb_is_never_in_memory_as_a_whole(tmp_path, doc_per):
    with gzip.open(tmp_path / "a.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(b"x" * (1 << 20))
    num_bytes = 0
    tracemalloc.start()
    for record in records_of(tmp_path / "a.txt.gz", doc_per=doc_per, max_document_bytes=1 << 20):
        assert record.num_parts == 40
        num_bytes += sum(len(part) for part in record.parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_bytes == 40 << 20
    assert peak < 12 << 20


def test_pieces_can_be_read_again_in_any_order(tmp_path):
    for suffix, pack in PACK.items():
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(pack(bytes(range(256)) * 20))
        config = EncodeConfig(max_document_bytes=100)
        (payload,) = build_plan(discover_inputs([path]).files, config)
        again = SecondReading(payload["files"][0], config)
        whole = bytes(range(256)) * 20
        for start, size in [(1000, 300), (1000, 300), (5, 7), (4000, 1120), (0, 1)]:
            document = again.document("x", 0, size, start=start)
            for _ in range(2):
                assert b"".join(document.parts) == whole[start : start + size]
        with pytest.raises(WorkError, match="changed while it was read"):
            list(again.document("x", 0, 200, start=5000).parts)


def test_a_long_line_before_the_damage_is_kept_and_one_inside_is_not(tmp_path):
    data = gzip.compress(b"".join(b"%d" % i * 40 for i in range(9000)), 1)
    lines = b"a" * 500 + b"\n" + b"b" * 500
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines + b"\n") + data[: len(data) // 2])
    result = encode(tmp_path / "out", tmp_path / "a.txt.gz", doc_per="line", max_document_bytes=64)
    assert [raw for _, raw, _, _ in result.documents] == lines.split(b"\n")
    assert [reject["reason"] for reject in result.rejects] == ["damaged_input"]
