import gzip

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, discover_inputs, encode_unit
from blt.corpus.encode import COUNTS
from blt.corpus.files.decompress import sniff_compression
from blt.errors import UserError, WorkError
from blt.formats.byte_shard import read_byte_shard, read_documents
from tests.blt.corpus.helpers import encode


def test_a_text_file_is_one_document_named_as_its_source(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    result = encode(tmp_path / "out", tmp_path / "a.bin")
    assert result.documents == [("a.bin", bytes(range(256)), "a.bin", None)]
    counts = {"documents": 1, "bytes": 256, "tokens": 258, "records": 1, "invalid_utf8": 1}
    counts |= {"input_records": 1, "input_bytes": 256}
    assert result.counts == {**dict.fromkeys(COUNTS, 0), **counts}


@settings(max_examples=40, deadline=None)
@given(raw=st.binary(max_size=60), limit=st.integers(1, 20), packed=st.booleans())
def test_parts_of_any_size_make_the_document_again(raw, limit, packed, tmp_path_factory):
    assume(sniff_compression(raw) == "plain")  # or it would be decompressed
    folder = tmp_path_factory.mktemp("parts")
    (folder / "in").mkdir()
    path = folder / "in" / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    result = encode(folder / "out", path, max_document_bytes=limit)
    assert [document[1] for document in result.documents] == [raw]
    records = list(read_byte_shard(folder / "out" / "bytes-00000-000.tfrecord"))
    assert len(records) == max(1, -(-len(raw) // limit))
    assert all(len(record.tokens) <= limit + 2 for record in records)


def test_a_long_json_text_is_stored_in_parts(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "x", "text": "abcdefghij"}\n')
    encode(tmp_path / "out", tmp_path / "a.jsonl", max_document_bytes=4)
    ((*parts,),) = read_documents(tmp_path / "out" / "bytes-00000-000.tfrecord")
    assert [(p.part, p.num_parts, len(p.tokens)) for p in parts] == [
        (0, 3, 5),
        (1, 3, 4),
        (2, 3, 3),
    ]


def test_a_long_line_is_one_document(tmp_path):
    blob = b"0123456789abcdef" * 320_000  # 5 MB, no line end
    (tmp_path / "big.txt").write_bytes(blob)
    (tmp_path / "big.jsonl").write_bytes(b'{"id": "big", "text": "%s"}' % blob)
    for name, options in (("big.txt", {"doc_per": "line"}), ("big.txt", {}), ("big.jsonl", {})):
        result = encode(tmp_path / "out", tmp_path / name, **options, target_shard_bytes=1 << 20)
        assert [raw == blob for _, raw, _, _ in result.documents] == [True]


def test_shards_roll_over_between_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"".join(b"%08d\n" % i for i in range(100)))
    config = EncodeConfig(doc_per="line", target_shard_bytes=10_000)
    (payload,) = build_plan(discover_inputs([tmp_path / "a.txt"]).files, config)
    small = EncodeConfig(doc_per="line", target_shard_bytes=100, max_document_bytes=3)
    result = encode_unit(payload, small, tmp_path / "out", 7)
    assert [shard.name for shard in result.shards][:2] == [
        "bytes-00007-000.tfrecord",
        "bytes-00007-001.tfrecord",
    ]
    assert [shard.documents for shard in result.shards] == [13] * 7 + [9]
    for shard in result.shards:
        assert all(len(parts) == 3 for parts in read_documents(tmp_path / "out" / shard.name))


def test_a_unit_done_twice_gives_the_same_bytes(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\nbroken\n')
    (payload,) = build_plan(discover_inputs([tmp_path / "a.jsonl"]).files, EncodeConfig())

    def contents():
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    first = encode_unit(payload, EncodeConfig(), tmp_path / "out", 0), contents()
    tables = {"00000.rejects.parquet", "00000.sources.parquet"}
    assert set(first[1]) == {"bytes-00000-000.tfrecord", *tables}
    assert (encode_unit(payload, EncodeConfig(), tmp_path / "out", 0), contents()) == first


def test_shards_can_be_gzip(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello " * 100)
    result = encode(tmp_path / "out", tmp_path / "a.txt", compression="gzip")
    assert result.documents[0][1] == b"hello " * 100
    shards = [path.name for path in (tmp_path / "out").glob("bytes-*")]
    assert shards == ["bytes-00000-000.tfrecord.gz"]


def test_an_empty_input_makes_no_shard(tmp_path):
    (tmp_path / "a.jsonl").touch()
    result = encode(tmp_path / "out", tmp_path / "a.jsonl")
    assert result.counts["records"] == 0
    assert not list((tmp_path / "out").glob("bytes-*"))


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x")
    (tmp_path / "out" / "bytes-00000-000.tfrecord").mkdir(parents=True)
    with pytest.raises(WorkError, match=r"out/bytes-00000-000\.tfrecord: cannot be written"):
        encode(tmp_path / "out", tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "jsnol"}, r"--format jsnol: must be one of .*Did you mean 'jsonl'"),
        ({"doc_per": "page"}, "--doc-per page: must be one of file, line"),
        ({"compression": "zip"}, "--compression zip"),
        ({"text_field": ""}, "--text-field"),
        ({"id_field": None}, "--id-field"),
        ({"keep_fields": "lang"}, "--keep-fields"),
        ({"max_document_bytes": 0}, "--max-document-bytes 0"),
        ({"max_document_bytes": 1 << 30}, "--max-document-bytes .*must not be above 268435456"),
        ({"target_shard_bytes": True}, "--target-shard-bytes True"),
        ({"target_shard_bytes": 1.5}, "--target-shard-bytes 1.5"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        EncodeConfig(**options)
