"""Several datasets that are used together."""

import dataclasses

import pytest

from blt.dataset.manifest import read_manifest, write_manifest
from blt.dataset.several import (
    Datasets,
    NumberedShard,
    check_boundaries_of,
    is_made_from,
    read_datasets,
    shares,
)
from blt.dataset.storage import sha256_file
from blt.dataset.units import ShardInfo
from blt.errors import UserError
from pipelines.shard_units import read_payload, shard_payloads
from tests.blt.datasets import write_byte_dataset

RULE = {"rule": "entropy", "threshold_nats": 1.3, "keep_entropies": None}


def write(folder, names, *, kind="byte_shards", size=10, **changes):
    """A dataset whose shards have these names; each file holds where it is."""
    folder.mkdir(parents=True)
    shards = []
    for name in names:
        (folder / name).write_text(f"{folder.name}/{name}")
        digest = sha256_file(folder / name)
        shards.append(ShardInfo(name=name, documents=1, bytes=size, tokens=size + 2, sha256=digest))
    totals = {"documents": len(names), "bytes": size * len(names), "tokens": 0}
    value = {"config": {"of": folder.name}, "fingerprints": {}, "parents": {}, "totals": totals}
    return write_manifest(folder, kind=kind, shards=shards, **{**value, **changes})


@pytest.fixture
def two(tmp_path):
    first = write(tmp_path / "a", ["bytes-00000-000.tfrecord", "bytes-00003-001.tfrecord.gz"])
    second = write(tmp_path / "b", ["bytes-00000-000.tfrecord", "bytes-00002-000.tfrecord"])
    third = write(tmp_path / "c", ["bytes-00001-000.tfrecord"])
    return first, second, third


def test_one_dataset_is_what_its_manifest_says(two):
    for member in two:
        one = read_datasets(member.folder, "byte_shards")
        names = ("kind", "sha256", "shards", "totals", "config", "fingerprints", "parents")
        assert {n: getattr(one, n) for n in names} == {n: getattr(member, n) for n in names}
        # Payloads are part of a unit's digest: a run that was begun before must be known again.
        assert shard_payloads(one) == [dataclasses.asdict(shard) for shard in member.shards]
        assert list(map(one.shard_path, one.shards)) == list(map(member.shard_path, member.shards))


def test_units_are_numbered_on_and_files_keep_their_names(two):
    several = read_datasets([member.folder for member in two], "byte_shards")
    assert [shard.name for shard in several.shards] == [
        "bytes-00000-000.tfrecord",
        "bytes-00003-001.tfrecord.gz",
        "bytes-00004-000.tfrecord",
        "bytes-00006-000.tfrecord",
        "bytes-00008-000.tfrecord",
    ]
    found = [path.read_text() for _, path in several.fetch_shards()]
    assert found[2:] == [
        "b/bytes-00000-000.tfrecord",
        "b/bytes-00002-000.tfrecord",
        "c/bytes-00001-000.tfrecord",
    ]
    assert [several.shard_path(shard).read_text() for shard in several.shards] == found
    assert several.sha256 == "+".join(member.sha256 for member in two)
    assert several.totals == {"documents": 5, "bytes": 50, "tokens": 0}


def test_payloads_name_the_dataset_and_no_folder(two, tmp_path):
    several = read_datasets([member.folder for member in two], "byte_shards")
    payloads = shard_payloads(several)
    assert payloads[:2] == [dataclasses.asdict(shard) for shard in two[0].shards]
    assert payloads[3]["dataset"] == 1
    assert str(tmp_path) not in str(payloads)
    shard = read_payload(payloads[3])
    assert (shard.unit, shard.roll, shard.info) == (6, 0, two[1].shards[1])
    with shard.fetched(several.folders) as path:
        assert path.read_text() == "b/bytes-00002-000.tfrecord"
    assert NumberedShard.from_json(payloads[3]).to_json() == payloads[3]


def test_numbers_are_those_of_what_is_made_of_the_shards(two, tmp_path):
    """Boundaries of A and B made together, with those of C, go by the numbers of A, B and C."""
    whole = read_datasets([member.folder for member in two], "byte_shards")
    pair = read_datasets([member.folder for member in two[:2]], "byte_shards")
    made = {"config": RULE, "kind": "boundaries"}
    names = [f"patches-{s.name[6:15]}.parquet" for s in pair.shards]
    write(tmp_path / "pab", names, parents={"byte_shards": pair.sha256}, **made)
    names = ["patches-00001-000.parquet"]
    write(tmp_path / "pc", names, parents={"byte_shards": two[2].sha256}, **made)
    patches = read_datasets([tmp_path / "pab", tmp_path / "pc"], "boundaries")
    assert patches.parents == {"byte_shards": whole.sha256}
    assert [s.name[8:17] for s in patches.shards] == [s.name[6:15] for s in whole.shards]
    check_boundaries_of(patches, whole)


def test_a_dataset_without_shards_takes_no_numbers(tmp_path):
    empty, other = write(tmp_path / "a", []), write(tmp_path / "b", ["bytes-00000-000.tfrecord"])
    several = Datasets((empty, other))
    assert [shard.name for shard in several.shards] == ["bytes-00000-000.tfrecord"]
    assert shard_payloads(several)[0]["dataset"] == 1


def test_a_shard_without_a_number_is_refused_among_others(two, tmp_path):
    odd = write(tmp_path / "odd", ["shard.tfrecord"])
    assert read_datasets(odd.folder, "byte_shards").shards == odd.shards
    with pytest.raises(UserError, match=r"odd/shard\.tfrecord: has no number in its name"):
        _ = Datasets((two[0], odd)).shards


def test_the_same_dataset_is_given_once(two, tmp_path):
    write(tmp_path / "copy" / "a", [s.name for s in two[0].shards])
    folders = [two[0].folder, two[1].folder, tmp_path / "copy" / "a"]
    with pytest.raises(UserError, match=r"a and .*copy/a: are the same dataset; give it once\.$"):
        read_datasets(folders, "byte_shards")


def test_what_is_common_and_what_is_united(tmp_path):
    configs = [
        {"format": "auto", "keep_fields": ["lang", "url"], "limit": None},
        {"format": "text", "keep_fields": [], "limit": None},
        {"format": "text", "keep_fields": ["date", "lang"], "limit": None},
    ]
    folders = [tmp_path / name for name in "abc"]
    for folder, config in zip(folders, configs, strict=True):
        write(folder, [], config=config, totals={"documents": 2, "of_" + folder.name: 1})
    several = read_datasets(folders, "byte_shards")
    assert several.config == {"limit": None, "keep_fields": ["lang", "url", "date"]}
    assert several.totals == {"documents": 6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {**RULE, "threshold_nats": 1.1}}, "threshold_nats is 1.3 there and 1.1 here"),
        ({"config": {**RULE, "keep_entropies": "u8"}}, "keep_entropies is None there and 'u8'"),
        ({"fingerprints": {"entropy_model": "f" * 64}}, "the fingerprint of the entropy model is"),
    ],
)
def test_boundaries_must_be_of_one_rule(tmp_path, changes, words):
    write(tmp_path / "a", [], kind="boundaries", config=RULE, parents={"byte_shards": "1"})
    made = {"config": RULE, "parents": {"byte_shards": "2"}, **changes}
    write(tmp_path / "b", [], kind="boundaries", **made)
    with pytest.raises(UserError) as caught:
        read_datasets([tmp_path / "a", tmp_path / "b"], "boundaries")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a'} and {tmp_path / 'b'}: patch boundaries")
    assert words in message and "`blt patch`" in message


def test_training_shards_may_differ_in_the_size_of_shards_alone(tmp_path):
    config = {"seq_len": 8, "max_patches": 4, "patch_rule": RULE, "target_shard_bytes": 1}
    other = {**config, "target_shard_bytes": 2}
    names = ["train-00000.tfrecord", "valid-00000.tfrecord"]
    a = write(tmp_path / "a", names, kind="training_shards", config=config)
    b = write(tmp_path / "b", names, kind="training_shards", config=other)
    several = read_datasets([a.folder, b.folder], "training_shards")
    assert [s.name for s in several.shards] == [
        *names,
        "train-00001.tfrecord",
        "valid-00001.tfrecord",
    ]
    rule = {**config, "patch_rule": {**RULE, "threshold_nats": 2.0}}
    c = write(tmp_path / "c", names, kind="training_shards", config=rule)
    with pytest.raises(UserError, match=r"patch_rule threshold_nats is 1\.3 there and 2\.0 here"):
        read_datasets([a.folder, c.folder], "training_shards")


@pytest.mark.parametrize(
    ("made_from", "given", "words"),
    [
        ("ba", "ab", "but in another order"),
        ("a", "ab", r"no boundaries of --data \S*b among them"),
        ("abc", "ab", "made from more byte shards than"),
        ("c", "ab", "made from other byte shards than"),
        ("c", "a", "made from other byte shards than"),
    ],
)
def test_boundaries_must_be_of_these_byte_shards_in_this_order(
    two, tmp_path, made_from, given, words
):
    members = dict(zip("abc", two, strict=True))
    parent = Datasets(tuple(members[name] for name in made_from)).sha256
    write(tmp_path / "p", [], kind="boundaries", config=RULE, parents={"byte_shards": parent})
    patches = read_datasets(tmp_path / "p", "boundaries")
    data = Datasets(tuple(members[name] for name in given))
    with pytest.raises(UserError, match=words):
        check_boundaries_of(patches, data)


def test_a_place_that_holds_another_kind_is_named(two, tmp_path):
    patches = write(tmp_path / "p", [], kind="boundaries")
    with pytest.raises(UserError, match=f"{patches.folder}: holds patch boundaries"):
        read_datasets([two[0].folder, patches.folder], "byte_shards")


def test_a_parent_may_be_one_of_several():
    assert is_made_from("aa+bb", "bb") and is_made_from("aa", "aa")
    assert not is_made_from("aa+bb", "b") and not is_made_from(None, "aa")
    assert not is_made_from("", "aa")


def test_shares_are_by_bytes(tmp_path):
    a = write(tmp_path / "a", ["bytes-00000-000.tfrecord"], size=300)
    b = write(tmp_path / "b", ["bytes-00000-000.tfrecord"], size=100)
    assert shares(512, Datasets((a, b))) == [384, 128]
    assert shares(512, Datasets((b,))) == [512]
    assert shares(3, Datasets((a, write(tmp_path / "c", [])))) == [3, 1]


def test_manifests_are_as_they_were(tmp_path):
    data = write_byte_dataset(tmp_path / "a", {"1": b"a", "2": b"b"}, num_shards=2)
    assert read_datasets(str(data.folder), "byte_shards").members == (read_manifest(data.folder),)
