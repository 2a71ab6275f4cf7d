import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blt.errors import WorkError
from blt.formats.scores import ScoresRow, ScoresWriter, read_scores


def write(path, rows):
    writer = ScoresWriter(path, metadata={"split": "all"})
    for row in rows:
        writer.write(row)
    writer.close()


def test_columns_follow_from_sums(tmp_path):
    path = tmp_path / "scores.parquet"
    row = ScoresRow("ü", 8, 8, 16 * math.log(2), 0.5, 4, 10, 20, "in.txt", b'{"a": 1}')
    empty = ScoresRow("", 0, 0, 0.0, 0.25, 0, 8, 32)
    write(path, [row, empty])
    table = pq.read_table(path)
    assert table.to_pylist() == [
        {
            "doc_id": "ü",
            "num_bytes": 8,
            "scored_bytes": 8,
            "nats": 16 * math.log(2),
            "eos_nats": 0.5,
            "bits_per_byte": 2.0,
            "num_patches": 4,
            "mean_patch_bytes": 2.0,
            "zlib_bits_per_byte": 10.0,
            "xz_bits_per_byte": 20.0,
            "source": "in.txt",
            "meta": '{"a": 1}',
        },
        {
            "doc_id": "",
            "num_bytes": 0,
            "scored_bytes": 0,
            "nats": 0.0,
            "eos_nats": 0.25,
            "bits_per_byte": None,
            "num_patches": 0,
            "mean_patch_bytes": None,
            "zlib_bits_per_byte": None,
            "xz_bits_per_byte": None,
            "source": "",
            "meta": None,
        },
    ]
    assert table.schema.metadata[b"split"] == b"all"
    assert table.schema.metadata[b"kind"] == b"scores"


def test_a_shard_without_documents_is_a_table_without_rows(tmp_path):
    write(tmp_path / "s.parquet", [])
    assert read_scores(tmp_path / "s.parquet").num_rows == 0


def test_the_same_rows_are_the_same_bytes(tmp_path):
    rows = [ScoresRow(str(i), i, i, i / 3, 0.1, i, 9) for i in range(50)]
    write(tmp_path / "a", rows)
    write(tmp_path / "b", rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(WorkError, match="text: cannot be read as scores"):
        read_scores(tmp_path / "text")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(WorkError, match="other: holds no scores"):
        read_scores(tmp_path / "other")
