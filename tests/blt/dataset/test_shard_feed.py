import tempfile

import pytest

from blt.dataset import shard_feed, storage
from blt.dataset.manifest import read_manifest
from blt.dataset.several import read_datasets
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.storage import as_place
from blt.errors import UserError, WorkError
from blt.formats.byte_shard import read_byte_shard
from tests.blt.datasets import write_byte_dataset
from tests.blt.places import copy_to

NUM_SHARDS = 12


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def data(root, tmp_path, scratch):
    documents = {f"d{i}": b"some bytes %d" % i for i in range(2 * NUM_SHARDS)}
    write_byte_dataset(tmp_path / "bytes", documents, num_shards=NUM_SHARDS)
    return read_manifest(copy_to(tmp_path / "bytes", f"{root}/bytes"), "byte_shards")


def read(feed, names, **kwargs):
    return [record.doc_id for record in feed.read(names, read_byte_shard, **kwargs)]


def test_shards_come_in_the_order_asked_for_and_few_are_kept(data, scratch, tmp_path):
    expected = read_manifest(tmp_path / "bytes")
    with ShardFeed(data) as feed, ShardFeed(expected) as own:
        names = [*reversed(feed.names), *feed.names[:3], feed.names[0]]
        assert read(feed, names) == read(own, names)
        kept = list(scratch.rglob("*.tfrecord"))
        assert len(kept) <= shard_feed._NUM_KEPT
        # Once each: the first were asked for again while they were here still.
        assert feed.num_fetched == (0 if feed.is_local else NUM_SHARDS)
        read(feed, feed.names)  # of which the last are here no more
        gone = NUM_SHARDS - shard_feed._NUM_KEPT
        assert feed.num_fetched == (0 if feed.is_local else NUM_SHARDS + gone)
    assert not list(scratch.iterdir())


def test_the_next_shards_are_here_before_they_are_asked_for(bucket, tmp_path, scratch):
    write_byte_dataset(tmp_path / "b", {f"d{i}": b"x" for i in range(9)}, num_shards=5)
    with ShardFeed(read_manifest(copy_to(tmp_path / "b", f"{bucket.url}/b"))) as feed:
        records = feed.read(feed.names[:1], read_byte_shard, then=feed.names[1:])
        next(records)
        feed._pool.shutdown()  # what was asked for by now comes, and nothing else
        assert feed.num_fetched == 1 + shard_feed.NUM_AHEAD
        assert [feed.path(name).name for name in feed.names[1:3]] == list(feed.names[1:3])


def test_a_shard_that_is_not_there_is_named_before_any_work(data):
    storage.delete(data.folder / data.shards[-1].name)
    with pytest.raises(UserError, match=rf"{data.shards[-1].name}: missing") as error:
        ShardFeed(data)
    assert str(data.folder) in str(error.value)


def test_a_shard_that_was_changed_is_named_whatever_a_library_makes_of_it(bucket, tmp_path):
    write_byte_dataset(tmp_path / "b", {f"d{i}": b"x" for i in range(9)}, num_shards=3)
    data = read_manifest(copy_to(tmp_path / "b", f"{bucket.url}/b"))
    place = data.folder / data.shards[2].name
    storage.replace(place, as_place(place).read_bytes() + b"x")

    def read_by_a_library():
        with ShardFeed(data) as feed:
            try:
                read(feed, feed.names)
            except UserError as cause:
                raise RuntimeError("in a thread of a library") from cause

    with pytest.raises(UserError, match="its sha256 is not the manifest's") as error:
        read_by_a_library()
    assert str(place) in str(error.value)


def test_shards_of_several_datasets_are_those_of_each_place(root, tmp_path, scratch):
    places = [tmp_path / "here", as_place(f"{root}/there")]
    for number, place in enumerate(places):
        documents = {f"{place.name}{i}": b"x" * (1 + i) for i in range(4 + 2 * number)}
        write_byte_dataset(tmp_path / f"made-{number}", documents, num_shards=2 + number)
        copy_to(tmp_path / f"made-{number}", place)
    several = read_datasets(places, "byte_shards")
    with ShardFeed(several) as feed:
        assert feed.names == tuple(f"bytes-{unit:05d}-000.tfrecord" for unit in range(5))
        names, due = zip(*feed.shared(30), strict=True)
        assert names == (list(feed.names[:2]), list(feed.names[2:]))
        assert due == (10, 21)  # of 10 and 21 bytes
        # Both have a shard of the first's name.
        assert read(feed, [feed.names[2], feed.names[0]]) == ["there0", "there3", "here0", "here2"]
        assert feed.path(feed.names[0]) == places[0] / feed.names[0]
        assert feed.num_fetched == (0 if feed.is_local else 1)
    wrong = places[1] / "bytes-00001-000.tfrecord"
    storage.replace(wrong, b"no shard")
    with pytest.raises((UserError, WorkError)) as error, ShardFeed(several) as feed:
        read(feed, feed.names)
    assert str(error.value).startswith(f"{wrong}: ")
    storage.delete(wrong)
    with pytest.raises(UserError) as error:
        ShardFeed(several)
    assert str(error.value).startswith(f"{wrong}: missing")
