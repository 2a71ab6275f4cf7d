import pyarrow.parquet as pq
import pytest

from blt.dataset.rejects import SCHEMA, merge_rejects, open_rejects
from blt.errors import WorkError


def write(path, num_rows, source="s"):
    with open_rejects(path) as writer:
        for position in range(num_rows):
            writer.add(source=source, position=position, reason="invalid_json", detail="d")
    return writer


def test_no_rejects_make_no_file(tmp_path):
    assert write(tmp_path / "_units" / "r.parquet", 0).num_rejects == 0
    assert not list(tmp_path.iterdir())


def test_rows_come_back_with_a_cut_sample(tmp_path):
    path = tmp_path / "_units" / "r.parquet"
    with open_rejects(path) as writer:
        writer.add(source="ü", position=None, reason="damaged_input", detail="cut")
        writer.add(source="b", position=7, reason="too_long", detail="", sample=b"\xff" * 300)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == [
        {
            "source": "ü",
            "position": None,
            "reason": "damaged_input",
            "detail": "cut",
            "sample": None,
        },
        {
            "source": "b",
            "position": 7,
            "reason": "too_long",
            "detail": "",
            "sample": b"\xff" * 200,
        },
    ]


def test_a_reason_outside_the_list_is_our_mistake(tmp_path):
    with (
        pytest.raises(ValueError, match="'because'"),
        open_rejects(tmp_path / "r") as writer,
    ):
        writer.add(source="", position=0, reason="because", detail="")


def test_a_failing_block_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), open_rejects(tmp_path / "r.parquet") as writer:
        for position in range(5000):
            writer.add(source="s", position=position, reason="too_long", detail="")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_merging_keeps_the_order_and_always_makes_a_file(tmp_path):
    write(tmp_path / "a", 5000, "a")
    write(tmp_path / "b", 2, "b")
    assert merge_rejects([], tmp_path / "none.parquet") == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert merge_rejects([tmp_path / "b", tmp_path / "a"], tmp_path / "all.parquet") == 5002
    table = pq.read_table(tmp_path / "all.parquet")
    assert table["source"].to_pylist() == ["b"] * 2 + ["a"] * 5000
    assert table["position"].to_pylist() == [0, 1, *range(5000)]


def test_an_unreadable_part_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(WorkError, match=r"bad\.parquet: cannot be read as rejects"):
        merge_rejects([tmp_path / "bad.parquet"], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
