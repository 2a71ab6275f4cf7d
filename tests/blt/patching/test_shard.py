import numpy as np
import pytest

from blt.dataset.manifest import read_manifest
from blt.dataset.storage import sha256_file
from blt.engine import LineEngine
from blt.errors import UserError, WorkError
from blt.formats.boundaries import read_boundaries, read_boundaries_metadata, restore_entropies
from blt.formats.byte_shard import read_byte_shard
from blt.patching import PatchRule, count_byte_patches, find_patch_lengths
from blt.patching.shard import patch_shard

RULE = PatchRule(threshold_nats=3.0)


def patch(data, output, engine, rule=RULE, **options):
    shard = data.shard_path(data.shards[0])
    return patch_shard(shard, output, engine=engine, rule=rule, unit_index=7, roll=2, **options)


@pytest.mark.parametrize("reset_on_newline", [False, True])
def test_row_i_is_about_record_i(data, documents, engine, tmp_path, reset_on_newline):
    done = []
    rule = PatchRule(threshold_nats=3.0, reset_on_newline=reset_on_newline)
    described = {"metadata": {"extra": "yes"}, "progress": done.append}
    result = patch(data, tmp_path, engine, rule, **described)
    path = tmp_path / "patches-00007-002.parquet"
    records = list(read_byte_shard(data.shard_path(data.shards[0])))
    rows = list(read_boundaries(path))
    assert [(r.doc_id, r.part) for r in rows] == [(r.doc_id, r.part) for r in records]
    assert max(record.num_parts for record in records) > 1
    plain = engine.run((i, r.tokens, r.part > 0) for i, r in enumerate(records))
    by_line = LineEngine(engine).run((i, r.tokens, r.part > 0) for i, r in enumerate(records))
    by_engine = by_line if reset_on_newline else plain
    num_patches = 0
    for record, row, expected in zip(records, rows, by_engine, strict=True):
        lengths = find_patch_lengths(record.tokens, expected.entropies, RULE)
        np.testing.assert_array_equal(row.patch_lengths, lengths)
        assert row.num_tokens == len(record.tokens) == lengths.sum()
        is_byte = record.tokens >= 4
        assert row.nats == pytest.approx(expected.token_nats[is_byte].sum(), rel=1e-5)
        assert row.eos_nats == pytest.approx(expected.token_nats[record.tokens == 2].sum())
        num_patches += count_byte_patches(record.tokens, lengths)
    num_bytes = sum(len(text) for text in documents.values())
    bits = round(sum(row.nats for row in rows) / np.log(2))
    assert result.counts == {
        "documents": len(documents),
        "bytes": num_bytes,
        "tokens": num_bytes + 2 * len(documents),
        "patches": num_patches,
        "boundaries_inside_characters": 0,
        "entropy_model_bits": bits,
    }
    (shard,) = result.shards
    assert (shard.name, shard.sha256) == (path.name, sha256_file(path))
    assert sum(done) == num_bytes
    metadata = read_boundaries_metadata(path)
    assert metadata["entropy_model"] == engine.fingerprint
    assert (metadata["rule"], metadata["threshold_nats"]) == ("entropy", "3.0")
    assert metadata["extra"] == "yes"
    assert metadata.get("reset_on_newline") == ("True" if reset_on_newline else None)
    assert ("memo_hits" in result.measured) == reset_on_newline
    assert metadata["boundaries_inside_characters"] == "0"


def test_again_gives_the_same_file(data, engine, tmp_path):
    first = patch(data, tmp_path, engine)
    second = patch(data, tmp_path / "elsewhere", engine)
    assert first == second


@pytest.mark.parametrize("kept", ["f16", "u8"])
def test_boundaries_come_from_the_kept_entropies(data, engine, tmp_path, kept):
    patch(data, tmp_path, engine, keep_entropies=kept)
    records = read_byte_shard(data.shard_path(data.shards[0]))
    rows = read_boundaries(tmp_path / "patches-00007-002.parquet")
    for record, row in zip(records, rows, strict=True):
        again = find_patch_lengths(record.tokens, restore_entropies(row.entropies), RULE)
        np.testing.assert_array_equal(row.patch_lengths, again)


def test_rules_without_a_model(data, documents, tmp_path):
    result = patch(data, tmp_path, None, PatchRule(rule="byte"))
    assert result.counts["patches"] == sum(len(text) for text in documents.values())
    rows = list(read_boundaries(tmp_path / "patches-00007-002.parquet"))
    assert {(row.nats, row.eos_nats) for row in rows} == {(None, None)}


def test_options_that_cannot_be_had_together(data, tmp_path, engine):
    with pytest.raises(UserError, match="--entropy-model: missing; rule 'entropy'"):
        patch(data, tmp_path, None)
    with pytest.raises(UserError, match="--keep-entropies: needs --entropy-model"):
        patch(data, tmp_path, None, PatchRule(rule="space"), keep_entropies="f16")
    rule = PatchRule(rule="space", reset_on_newline=True)
    with pytest.raises(UserError, match="--reset-on-newline: needs --entropy-model"):
        patch(data, tmp_path, None, rule)
    with pytest.raises(UserError, match="--keep-entropies f32"):
        patch(data, tmp_path, engine, keep_entropies="f32")


def test_a_damaged_shard_leaves_nothing(data, tmp_path, engine):
    damaged = tmp_path / "bytes-00000-000.tfrecord"
    damaged.write_bytes(data.shard_path(data.shards[0]).read_bytes()[:-5])
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(WorkError, match="bytes-00000-000"):
        patch_shard(damaged, output, engine=engine, rule=RULE, unit_index=0, roll=0)
    assert list(output.iterdir()) == []
    assert read_manifest(data.folder, "byte_shards") == data
