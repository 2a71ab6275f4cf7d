import gzip
import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from blt.corpus import EncodeConfig, build_plan, decode_dataset, discover_inputs, encode_unit
from blt.corpus.readers.paragraph_reader import MAX_GAP_BYTES
from tests.blt.corpus.helpers import encode, make_dataset

PIECES = st.lists(
    st.sampled_from([b"a", b"bc", b" ", b"\t", b"\n", b"\n\n", b"\r\n", b"\xff", b"\0"])
)


def paragraphs(tmp_path, data, name="x.txt", **options):
    (tmp_path / name).write_bytes(data)
    return encode(tmp_path / "out", tmp_path / name, doc_per="paragraph", **options)


def test_blank_lines_stand_between_documents(tmp_path):
    data = b"\n \nTitle\nfirst.\n\nsecond\n \t\r\n\n third \r\n\r\n\x0b\n"
    result = paragraphs(tmp_path, data)
    assert result.documents == [
        ("x.txt#3", b"Title\nfirst.", "x.txt", b'{"before":"\\n \\n"}'),
        ("x.txt#17", b"second", "x.txt", b'{"after":"\\n \\t\\r\\n\\n"}'),
        ("x.txt#29", b" third \r", "x.txt", b'{"after":"\\n\\r\\n"}'),
        ("x.txt#40", b"\x0b", "x.txt", b'{"after":"\\n"}'),
    ]
    assert result.rejects == []


def test_a_file_of_blank_lines_is_one_filtered_record(tmp_path):
    result = paragraphs(tmp_path, b"\n \n\r\n")
    assert (len(result.documents), result.counts["filtered"]) == (0, 1)
    assert paragraphs(tmp_path, b"", "empty.txt").counts["records"] == 0


def test_a_gap_over_the_limit_is_cut_and_counted(tmp_path):
    gap = b"\n" * (MAX_GAP_BYTES + 500)
    data = gap + b"a" + gap + b"b" + gap
    (tmp_path / "x.txt").write_bytes(data)
    dataset = make_dataset(tmp_path / "data", tmp_path / "x.txt", doc_per="paragraph")
    decode_dataset(dataset, tmp_path / "out")
    kept = b"\n" * MAX_GAP_BYTES
    assert (tmp_path / "out/x.txt").read_bytes() == b"a" + kept + b"b" + kept
    assert paragraphs(tmp_path, data).counts["filtered"] == 3


@settings(max_examples=100, deadline=None)
@given(files=st.lists(PIECES.map(b"".join), min_size=1, max_size=3), packed=st.booleans())
def test_files_come_back_byte_for_byte(files, packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paragraphs")
    (folder / "in").mkdir()
    for number, data in enumerate(files):
        path = folder / "in" / f"{number}.txt{'.gz' * packed}"
        path.write_bytes(gzip.compress(data) if packed else data)
    dataset = make_dataset(
        folder / "data", folder / "in", doc_per="paragraph", max_document_bytes=5
    )
    decode_dataset(dataset, folder / "out")
    found = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    # A file of blank lines alone has no document to come back with.
    expected = {f"{i}.txt": data for i, data in enumerate(files) if data.strip(b" \t\r\n")}
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(pieces=PIECES, cuts=st.lists(st.integers(1, 60), max_size=5, unique=True))
@example(
    pieces=[b"\n" * 3000, b"a", b"\n" * 6000, b"b", b" " * 6000, b"\nc\n"],
    cuts=[1, 2999, 5000, 9000],
)
@example(pieces=[b"\n" * 5000, b"a\n", b" " * 5000, b"\n\nb"], cuts=[1, 2999, 5001, 9000, 10003])
@example(pieces=[b" " * 4096, b"\n", b"a\n", b" " * 4097, b"\nb"], cuts=[1, 4096, 4097, 4098, 8197])
def test_any_ranges_give_the_paragraphs_of_the_whole(pieces, cuts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranges")
    data = b"".join(pieces)
    (folder / "x.txt").write_bytes(data)
    config = EncodeConfig(doc_per="paragraph", max_document_bytes=5)
    ((entry,),) = [p["files"] for p in build_plan(discover_inputs([folder]).files, config)]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    ranges = [list(pair) for pair in itertools.pairwise(bounds)]
    pieces = {"files": [{**entry, "range": r, "num_bytes": r[1] - r[0]} for r in ranges]}
    whole = encode_unit({"files": [entry]}, config, folder, 0)
    split = encode_unit(pieces, config, folder, 1)
    assert split.counts == whole.counts
    assert [shard.sha256 for shard in split.shards] == [shard.sha256 for shard in whole.shards]


def test_large_plain_files_are_split(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"word\n\n" * 100)
    options = {"doc_per": "paragraph", "target_shard_bytes": 100}
    config = EncodeConfig(**options)
    assert len(build_plan(discover_inputs([tmp_path]).files, config)) == 6
    result = encode(
        tmp_path / "out", tmp_path / "x.txt", doc_per="paragraph", target_shard_bytes=100
    )
    assert [raw for _, raw, _, _ in result.documents] == [b"word"] * 100


def test_with_newlines_lf_the_gaps_get_lf_too(tmp_path):
    data = b" \r\na\r\nb\r\n\r\n\t\r\nc\r\n\r\nd\re\r\n"
    (tmp_path / "x.txt").write_bytes(data)
    dataset = make_dataset(
        tmp_path / "data", tmp_path / "x.txt", doc_per="paragraph", newlines="lf"
    )
    decode_dataset(dataset, tmp_path / "out")
    assert (tmp_path / "out/x.txt").read_bytes() == data.replace(b"\r\n", b"\n")
