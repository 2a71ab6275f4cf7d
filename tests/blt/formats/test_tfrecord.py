import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.errors import WorkError
from blt.formats.tfrecord import TFRecordWriter, masked_crc32c, read_tfrecords

# Length 3, its masked checksum, "abc", its masked checksum: as TensorFlow 2.21 writes it.
ABC = bytes.fromhex("0300000000000000b0e4ef656162638d5f5ce1")


def write(path, records, compression=None):
    writer = TFRecordWriter(path, compression=compression)
    for record in records:
        writer.write(record)
    return writer.close()


def test_the_masked_checksum_is_that_of_the_tfrecord_format():
    assert masked_crc32c(b"") == 0xA282EAD8
    assert (
        masked_crc32c(b"123456789")
        == (0xE3069283 >> 15 | (0xE3069283 << 17) & 0xFFFFFFFF) + (0xA282EAD8 - (1 << 32))
        & 0xFFFFFFFF
    )


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_records_come_back(tmp_path, compression):
    records = [b"", b"a", bytes(range(256)) * 500, b"\x1f\x8b"]
    path = tmp_path / "x.tfrecord"
    digest = write(path, records, compression)
    assert list(read_tfrecords(path)) == records
    assert digest == write(tmp_path / "y.tfrecord", records, compression)
    assert (tmp_path / "y.tfrecord").read_bytes() == path.read_bytes()


def test_a_plain_file_that_starts_like_gzip_is_read_as_plain(tmp_path):
    record = bytes(0x8B1F)
    write(tmp_path / "x", [record])
    assert (tmp_path / "x").read_bytes()[:2] == b"\x1f\x8b"
    assert list(read_tfrecords(tmp_path / "x")) == [record]


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("cut", [1, 4, 5, 15, 19, 20, 31])
def test_a_cut_file_names_itself_and_the_record(tmp_path, compression, cut):
    path = tmp_path / "cut.tfrecord"
    write(path, [b"first", b"second one"], compression)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(WorkError, match=r"cut\.tfrecord: record \d at byte \d+ .*run the command"):
        list(read_tfrecords(path))


def test_no_single_altered_byte_is_missed(tmp_path):
    path = tmp_path / "x.tfrecord"
    write(path, [b"first", b"second"])
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises(WorkError, match=r"record [01] at byte (0|21) "):
            list(read_tfrecords(path))


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_declared_length_is_refused_before_it_is_believed(tmp_path, packed):
    header = (1 << 40).to_bytes(8, "little")
    data = header + masked_crc32c(header).to_bytes(4, "little") + b"x" * 50
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(WorkError, match="record 0 at byte 0 declares 1099511627776 bytes"):
        list(read_tfrecords(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WorkError, match=r"absent\.tfrecord: cannot be read"):
        list(read_tfrecords(tmp_path / "absent.tfrecord"))


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'zip'"):
        TFRecordWriter(tmp_path / "x", compression="zip")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_gives_records_or_a_work_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("garbage") / "x"
    path.write_bytes(data)
    try:
        assert list(read_tfrecords(path)) == []
    except WorkError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_tensorflow_reads_what_we_write_and_we_read_what_it_writes(tmp_path, compression):
    tf = pytest.importorskip("tensorflow")
    records = [b"", b"abc", bytes(70000)]
    write(tmp_path / "ours", records, compression)
    kind = "GZIP" if compression else ""
    assert (
        list(tf.data.TFRecordDataset(str(tmp_path / "ours"), kind).as_numpy_iterator()) == records
    )
    with tf.io.TFRecordWriter(str(tmp_path / "theirs"), kind) as writer:
        for record in records:
            writer.write(record)
    assert list(read_tfrecords(tmp_path / "theirs")) == records
    if not compression:
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
