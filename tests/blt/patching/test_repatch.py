import numpy as np
import pytest

from blt.errors import UserError, WorkError
from blt.formats.boundaries import read_boundaries, read_boundaries_metadata
from blt.patching import PatchRule
from blt.patching.repatch import repatch_shard
from blt.patching.shard import patch_shard
from tests.blt.datasets import write_byte_dataset

NAME = "patches-00000-000.parquet"
FIRST = PatchRule(threshold_nats=1.5)
ENTROPY_RULES = [
    {"threshold_nats": 0.5},
    {"rule": "monotonic", "threshold_nats": 0.25},
    {"rule": "combined", "threshold_nats": 0.4, "threshold_add_nats": 0.1},
]
OTHER_RULES = [{"rule": "static", "patch_size": 3}, {"rule": "byte"}, {"rule": "space"}]
OPTIONS = [{}, {"max_patch_length": 5}, {"compat": "meta"}, {"snap_utf8": True}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of one byte and of many, in parts that also cut characters, valid and not."""
    text = "Straße, 東京 und 😀! ".encode()
    documents = {f"doc-{i}": text * i for i in range(20)}
    documents |= {"empty": b"", "binary": bytes(range(256)) * 3, "one": b"a"}
    return write_byte_dataset(tmp_path_factory.mktemp("data") / "bytes", documents, part_bytes=100)


@pytest.fixture(scope="module")
def byte_shard(data):
    return data.shard_path(data.shards[0])


def patch(byte_shard, output, engine, rule, keep_entropies):
    output.mkdir(exist_ok=True)
    metadata = {"byte_shard_sha256": "ab" * 32}
    return patch_shard(
        byte_shard,
        output,
        engine=engine,
        rule=rule,
        keep_entropies=keep_entropies,
        unit_index=0,
        roll=0,
        metadata=metadata,
    )


@pytest.fixture(scope="module", params=["f16", "u8"])
def kept_as(request):
    return request.param


@pytest.fixture(scope="module")
def first(byte_shard, engine, kept_as, tmp_path_factory):
    output = tmp_path_factory.mktemp(f"first-{kept_as}")
    patch(byte_shard, output, engine, FIRST, kept_as)
    return output / NAME


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("numbers", ENTROPY_RULES + OTHER_RULES, ids=str)
def test_the_file_is_the_one_that_patch_makes(
    first, byte_shard, engine, kept_as, tmp_path, numbers, options
):
    rule = PatchRule(**numbers, **options)
    expected = patch(byte_shard, tmp_path / "patch", engine, rule, kept_as)
    assert expected.counts["patches"] > 500
    done = []
    found = repatch_shard(
        first, tmp_path / "repatch", rule=rule, byte_shard=byte_shard, progress=done.append
    )
    assert found == expected  # with the sha256 of the file
    assert sum(done) == expected.counts["bytes"]
    if not rule.needs_bytes:
        unseen = repatch_shard(first, tmp_path / "unseen", rule=rule)
        expected.counts.pop("boundaries_inside_characters")
        assert unseen.counts == expected.counts
        lengths = [
            [row.patch_lengths.tolist() for row in read_boundaries(tmp_path / where / NAME)]
            for where in ("unseen", "patch")
        ]
        assert lengths[0] == lengths[1]


def test_entropies_of_lines_stay_entropies_of_lines(engine, tmp_path):
    data = write_byte_dataset(tmp_path / "bytes", {"a": b"some lines\nof\n\nsome lines\n" * 9})
    byte_shard = data.shard_path(data.shards[0])
    for kind, reset_on_newline in (("lines", True), ("whole", False)):
        rule = PatchRule(threshold_nats=1.5, reset_on_newline=reset_on_newline)
        patch(byte_shard, tmp_path / kind, engine, rule, "f16")
    rule = PatchRule(rule="monotonic", threshold_nats=0.1, reset_on_newline=True)
    expected = patch(byte_shard, tmp_path / "patch", engine, rule, "f16")
    without = PatchRule(rule="monotonic", threshold_nats=0.1)
    for number, asked in enumerate((rule, without)):
        output = tmp_path / str(number)
        lines = tmp_path / "lines" / NAME
        assert repatch_shard(lines, output, rule=asked, byte_shard=byte_shard) == expected
    with pytest.raises(UserError, match="--reset-on-newline: the entropies .* whole documents"):
        repatch_shard(tmp_path / "whole" / NAME, tmp_path / "no", rule=rule)


def test_row_groups_are_put_together_rightly(byte_shard, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("blt.formats.boundaries._ROW_GROUP_TOKENS", 150)
    rule = PatchRule(rule="combined", threshold_nats=0.4, threshold_add_nats=0.0)
    expected = patch(byte_shard, tmp_path / "patch", engine, rule, "u8")
    patch(byte_shard, tmp_path / "first", engine, FIRST, "u8")
    found = repatch_shard(
        tmp_path / "first" / NAME, tmp_path / "again", rule=rule, byte_shard=byte_shard
    )
    assert found == expected


def test_entropies_can_be_dropped(first, engine, tmp_path):
    result = repatch_shard(first, tmp_path, rule=FIRST, drop_entropies=True)
    rows = list(read_boundaries(tmp_path / NAME))
    for row, before in zip(rows, read_boundaries(first), strict=True):
        assert row.entropies is None
        np.testing.assert_array_equal(row.patch_lengths, before.patch_lengths)
        assert (row.nats, row.eos_nats) == (before.nats, before.eos_nats)
    metadata = read_boundaries_metadata(tmp_path / NAME)
    assert metadata["entropy_model"] == engine.fingerprint
    assert metadata["byte_shard_sha256"] == "ab" * 32
    assert not {"entropies", "entropies_scale_nats"} & metadata.keys()
    assert result.shards[0].sha256 != first


def test_what_is_not_there_is_asked_for(byte_shard, first, engine, tmp_path):
    patch(byte_shard, tmp_path / "none", engine, FIRST, None)
    with pytest.raises(UserError, match="--patches: no entropies were kept.*--keep-entropies f16"):
        repatch_shard(tmp_path / "none" / NAME, tmp_path / "out", rule=FIRST)
    with pytest.raises(UserError, match="--data: missing; rule 'space' looks at the bytes"):
        repatch_shard(first, tmp_path / "out", rule=PatchRule(rule="space"))
    with pytest.raises(UserError, match="--data: missing; --snap-utf8"):
        repatch_shard(first, tmp_path / "out", rule=PatchRule(rule="byte", snap_utf8=True))
    assert not (tmp_path / "out").exists()
    static = PatchRule(rule="static", patch_size=3)
    assert repatch_shard(tmp_path / "none" / NAME, tmp_path / "out", rule=static).counts["patches"]


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ({"doc-0": b"", "doc-x": b"other"}, "row 'doc-1', part 0, is not the next record"),
        ({"doc-0": b""}, "is not the next record"),
        (None, "it holds more records"),
    ],
)
def test_another_byte_shard_is_refused(first, data, tmp_path, documents, why):
    if documents is None:
        texts = {f"doc-{i}": "Straße, 東京 und 😀! ".encode() * i for i in range(20)}
        texts |= {"empty": b"", "binary": bytes(range(256)) * 3, "one": b"a", "more": b"a"}
        documents = texts
    other = write_byte_dataset(tmp_path / "bytes", documents, part_bytes=100)
    with pytest.raises(WorkError, match=why):
        repatch_shard(first, tmp_path, rule=FIRST, byte_shard=other.shard_path(other.shards[0]))
    assert not (tmp_path / NAME).exists()
