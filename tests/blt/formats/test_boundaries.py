import numpy as np
import pyarrow.parquet as pq
import pytest

from blt.errors import WorkError
from blt.formats import boundaries
from blt.formats.boundaries import (
    BoundariesRow,
    BoundariesWriter,
    read_boundaries,
    read_boundaries_metadata,
    restore_entropies,
    store_entropies,
)


def row(doc_id, lengths, **more):
    lengths = np.array(lengths, np.int32)
    return BoundariesRow(doc_id, 0, int(lengths.sum()), lengths, **more)


def write(path, rows, **options):
    writer = BoundariesWriter(path, metadata={"rule": "entropy"}, **options)
    for each in rows:
        writer.write(each)
    writer.close()


def assert_same_rows(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        for name in ("doc_id", "part", "num_tokens", "nats", "eos_nats"):
            assert getattr(mine, name) == getattr(theirs, name)
        np.testing.assert_array_equal(mine.patch_lengths, theirs.patch_lengths)
        assert mine.patch_lengths.dtype == np.int32


ROWS = [
    row("a", [1, 5, 2], nats=1.5, eos_nats=0.25),
    row("", []),
    BoundariesRow("é\n", 3, 4, np.int32([4]), 0.0, 0.0),
]


@pytest.mark.parametrize("row_group_tokens", [1, 1 << 20])
def test_rows_come_back_as_they_went(tmp_path, monkeypatch, row_group_tokens):
    monkeypatch.setattr(boundaries, "_ROW_GROUP_TOKENS", row_group_tokens)
    path = tmp_path / "p.parquet"
    write(path, ROWS)
    assert_same_rows(read_boundaries(path), ROWS)


def test_a_plain_reader_sees_the_documented_schema(tmp_path):
    write(tmp_path / "p.parquet", ROWS)
    table = pq.read_table(tmp_path / "p.parquet")
    assert {f.name: str(f.type) for f in table.schema} == {
        "doc_id": "string",
        "part": "int32",
        "num_tokens": "int32",
        "patch_lengths": "list<element: uint16 not null>",
        "nats": "double",
        "eos_nats": "double",
    }
    assert table["patch_lengths"].to_pylist() == [[1, 5, 2], [], [4]]
    assert table["nats"].to_pylist() == [1.5, None, 0.0]
    metadata = {"format_version": "1", "kind": "boundaries", "rule": "entropy"}
    assert read_boundaries_metadata(tmp_path / "p.parquet") == metadata


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("p.parquet", "q.parquet"):
        write(tmp_path / name, ROWS)
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "q.parquet").read_bytes()


def test_a_patch_too_long_for_16_bits_widens_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(boundaries, "_ROW_GROUP_TOKENS", 5)
    rows = [*ROWS, row("long", [1, 65_535]), row("longer", [1, 65_536, 3]), row("b", [2])]
    path = tmp_path / "p.parquet"
    write(path, rows)
    assert_same_rows(read_boundaries(path), rows)
    assert "int32" in str(pq.read_schema(path).field("patch_lengths").type)
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize(("kept", "error"), [("f16", 2e-3), ("u8", 5.561 / 255 / 2 + 1e-4)])
def test_entropies_are_kept_as_asked(tmp_path, kept, error):
    entropies = np.linspace(0, np.log(260), 50, dtype=np.float32)
    stored = store_entropies(entropies, kept)
    np.testing.assert_allclose(restore_entropies(stored), entropies, atol=error)
    assert restore_entropies(stored)[0] == 0.0
    wanted = row("a", [50], nats=1.0, eos_nats=1.0, entropies=stored)
    path = tmp_path / "p.parquet"
    write(path, [wanted], keep_entropies=kept)
    (got,) = read_boundaries(path)
    np.testing.assert_array_equal(restore_entropies(got.entropies), restore_entropies(stored))
    assert read_boundaries_metadata(path)["entropies"] == kept


def test_damage_is_noticed_and_named(tmp_path):
    path = tmp_path / "p.parquet"
    write(path, [row(f"document {i}", range(1, 50)) for i in range(100)])
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(WorkError, match=r"p\.parquet: cannot be read as boundaries"):
        list(read_boundaries(path))
    path.write_bytes(b"not Parquet")
    with pytest.raises(WorkError, match=r"p\.parquet"):
        list(read_boundaries(path))
