import bz2
import gzip
import json
import lzma
import random
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.corpus.files import decompress
from blt.corpus.files.decompress import (
    DamagedInputError,
    TooCompressedError,
    read_blocks,
    sniff_compression,
    strip_compression_suffix,
)
from tests.blt.corpus.helpers import encode

COMPRESS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
}
SUFFIX = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "xz": ".xz", "lz4": ".lz4"}
KINDS = sorted(COMPRESS)
LINES = [f"line {i} {random.Random(i).random()}".encode() for i in range(3000)]
DATA = b"".join(line + b"\n" for line in LINES)


def read(path, data, compression):
    path.write_bytes(data)
    return b"".join(read_blocks(str(path), compression))


@pytest.mark.parametrize("kind", KINDS)
def test_members_padding_and_nothing_are_read_whole(kind, tmp_path):
    compress = COMPRESS[kind]
    path = tmp_path / "x"
    assert read(path, compress(DATA), kind) == DATA
    assert read(path, compress(DATA) + compress(b"") + compress(b"more"), kind) == DATA + b"more"
    assert read(path, compress(DATA) + bytes(5000), kind) == DATA
    assert read(path, compress(b"a") + bytes(512) + compress(b"b"), kind) == b"ab"
    assert read(path, compress(b""), kind) == b""
    with pytest.raises(DamagedInputError, match="is empty"):
        read(path, b"", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_of_a_small_file_goes_unnoticed(kind, tmp_path):
    data = COMPRESS[kind](b"some text, " * 20)
    for length in range(1, len(data)):
        with pytest.raises(DamagedInputError, match=r"cut short|is not"):
            read(tmp_path / "x", data[:length], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_altered_byte_changes_the_content_in_silence(kind, tmp_path):
    text = b"some text, " * 20
    data = COMPRESS[kind](text)
    num_noticed = 0
    for position in range(len(data)):
        altered = data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :]
        try:
            assert read(tmp_path / "x", altered, kind) == text  # a bit that says nothing
        except DamagedInputError:
            num_noticed += 1
    assert num_noticed > 0.7 * len(data)  # gzip's header has bytes that say nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [b"garbage", b"\x00\x00garbage after zeros", b"\x1f"])
def test_what_follows_the_end_is_damage_after_the_good_bytes(kind, after, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(COMPRESS[kind](DATA) + after)
    blocks = read_blocks(str(path), kind)
    got = b""
    with pytest.raises(DamagedInputError, match=f"bytes after its end that are not {kind}"):
        for block in blocks:
            got += block
    assert got == DATA


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_data_under_the_suffix_is_damage(kind, tmp_path):
    for other in (b"plain text, plain text", *(COMPRESS[k](b"x") for k in KINDS if k != kind)):
        with pytest.raises(DamagedInputError, match=f"is not {kind} data"):
            read(tmp_path / "x", other, kind)


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_skippable_frames_are_passed_over(kind, tmp_path):
    skippable = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00skip"
    frame = COMPRESS[kind](b"text")
    assert read(tmp_path / "x", skippable + frame + skippable + frame, kind) == b"texttext"


@pytest.mark.parametrize("kind", KINDS)
def test_what_grows_too_far_is_given_up_after_its_free_bytes(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "FREE_OUTPUT_BYTES", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(COMPRESS[kind](bytes(40 << 20)))
    ratio = (40 << 20) // path.stat().st_size
    whole = sum(len(b) for b in read_blocks(str(path), kind, max_ratio=ratio + 1))
    assert whole == 40 << 20
    num_out = 0
    with pytest.raises(TooCompressedError, match=f"more than {ratio // 2} times its size"):
        for block in read_blocks(str(path), kind, max_ratio=ratio // 2):
            num_out += len(block)
    assert num_out <= 40 << 20


def test_a_bomb_is_a_reject_and_the_files_beside_it_are_kept(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"fine")
    (tmp_path / "in" / "b.txt.bz2").write_bytes(bz2.compress(bytes(80 << 20)))
    result = encode(tmp_path / "out", tmp_path / "in")
    assert [raw for _, raw, _, _ in result.documents] == [b"fine"]
    assert [(r["source"], r["reason"]) for r in result.rejects] == [("b.txt.bz2", "too_compressed")]


@pytest.mark.parametrize("kind", KINDS)
def test_output_comes_in_bounded_blocks(kind, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(COMPRESS[kind](bytes(40 << 20)))
    sizes = [len(block) for block in read_blocks(str(path), kind)]
    assert sum(sizes) == 40 << 20
    assert max(sizes) <= 16 << 20


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_any_bytes_survive_each_compression(kind, pieces, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "x"
    assert read(path, b"".join(map(COMPRESS[kind], pieces)), kind) == b"".join(pieces)


def gzip_member(data, *, extra=b"", name=b"", comment=b"", flags=0, has_checksum=False):
    """A member with any head that RFC 1952 has."""
    fields = [len(extra).to_bytes(2, "little") + extra if extra else b""]
    fields += [text + b"\0" if text else b"" for text in (name, comment)]
    flags |= 2 * has_checksum | 4 * bool(extra) | 8 * bool(name) | 16 * bool(comment)
    packed = gzip.compress(data, mtime=0)
    head = packed[:3] + bytes([flags]) + packed[4:10] + b"".join(fields)
    if has_checksum:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    return head + packed[10:]


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "head",
    [
        {},
        {"name": b"name.txt"},
        {"name": b"n" * 300},
        {"extra": b"BC\2\0\x1b\0"},
        {"comment": b"comment"},
        {"extra": b"abc", "name": b"name.txt"},
        {"extra": b"abc", "name": b"name.txt", "comment": b"c" * 40},
        {"has_checksum": True},
        {"extra": b"abc", "name": b"name.txt", "comment": b"c", "has_checksum": True},
    ],
)
def test_any_head_of_gzip_is_read_however_it_comes(tmp_path, monkeypatch, head, size):
    monkeypatch.setattr(decompress, "_PACKED_BYTES", size)
    data = gzip_member(DATA[:3000], **head)
    assert read(tmp_path / "x", data * 2, "gzip") == DATA[:3000] * 2
    for end in (len(data) - 1, len(data) // 2, len(data) - 8):
        with pytest.raises(DamagedInputError, match="cut short"):
            read(tmp_path / "x", data[:end], "gzip")


@pytest.mark.parametrize("flags", [32, 64, 128])
def test_flags_that_no_gzip_head_has_are_damage(tmp_path, flags):
    with pytest.raises(DamagedInputError, match="unknown header flags"):
        read(tmp_path / "x", gzip_member(DATA, flags=flags), "gzip")


def test_suffixes_and_magic_tell_the_compression():
    assert strip_compression_suffix("a/b.TXT.GZ") == ("a/b.TXT", "gzip")
    assert strip_compression_suffix("a.zstd") == ("a", "zstd")
    assert strip_compression_suffix("a.gz/b.txt") == ("a.gz/b.txt", None)
    assert [sniff_compression(COMPRESS[kind](b"x")[:16]) for kind in KINDS] == KINDS
    assert [sniff_compression(COMPRESS[kind](b"")[:16]) for kind in KINDS] == KINDS
    assert sniff_compression(b"BZh9 is not bz2") == sniff_compression(b"") == "plain"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_lines_before_a_cut_are_kept_and_the_cut_is_one_reject(kind, fraction, tmp_path):
    data = COMPRESS[kind](DATA)
    path = tmp_path / f"lines.txt{SUFFIX[kind]}"
    path.write_bytes(data[: int(len(data) * fraction)])
    result = encode(tmp_path / "out", path, doc_per="line")
    (reject,) = result.rejects
    assert (reject["source"], reject["reason"]) == (path.name, "damaged_input")
    assert "cut short" in reject["detail"]
    assert result.counts["damaged_files"] == 1
    num_kept = len(result.documents)
    assert [raw for _, raw, _, _ in result.documents] == LINES[:num_kept]
    if num_kept:
        assert reject["position"] == sum(len(line) + 1 for line in LINES[: num_kept - 1])
    if kind == "gzip":  # the others have one block here, which is whole or is not
        assert num_kept > 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_that_is_one_document_is_no_document(kind, tmp_path):
    path = tmp_path / f"a.txt{SUFFIX[kind]}"
    path.write_bytes(COMPRESS[kind](DATA)[:-3])
    result = encode(tmp_path / "out", path, max_document_bytes=1000)
    assert (len(result.documents), len(result.rejects)) == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_compression_gives_the_documents_of_the_plain_file(kind, tmp_path):
    rows = [{"id": f"d{i}", "text": line.decode()} for i, line in enumerate(LINES[:50])]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name in (f"a.jsonl{SUFFIX[kind]}", "b.jsonl"):  # by suffix, and by the first bytes
        (tmp_path / name).write_bytes(COMPRESS[kind](data))
        result = encode(tmp_path / f"out-{name}", tmp_path / name)
        assert [(i, raw.decode()) for i, raw, _, _ in result.documents] == [
            (row["id"], row["text"]) for row in rows
        ]


@pytest.mark.parametrize("window_log", [28, 31])
def test_zstd_of_the_longest_windows_is_read(window_log, tmp_path):
    settings = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    packed = compressor.compress(DATA) + compressor.flush()
    assert read(tmp_path / "x", packed, "zstd") == DATA


def test_zstd_that_needs_a_dictionary_says_so(tmp_path):
    dictionary = zstandard.train_dictionary(1000, LINES)
    packed = zstandard.ZstdCompressor(dict_data=dictionary).compress(DATA)
    with pytest.raises(DamagedInputError, match="need the dictionary"):
        read(tmp_path / "x", packed, "zstd")


@pytest.mark.parametrize("inner", KINDS)
def test_what_is_compressed_twice_is_damage_and_no_document(inner, tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(COMPRESS[inner](b"text")))
    result = encode(tmp_path / "out", path)
    (reject,) = result.rejects
    assert (result.documents, reject["reason"]) == ([], "damaged_input")
    assert reject["detail"].startswith(f"is compressed twice ({inner} inside gzip)")
