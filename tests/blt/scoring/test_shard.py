import json
import math
import zlib

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from blt.dataset.splits import is_held_out
from blt.dataset.storage import sha256_file
from blt.engine import EntropyEngine
from blt.engine.results import DocumentEntropies
from blt.errors import UserError, WorkError
from blt.formats.boundaries import patches_name
from blt.formats.byte_shard import ByteRecord, ByteShardWriter, byte_shard_name, read_byte_shard
from blt.formats.scores import scores_name
from blt.model.blt import ByteLatentTransformer
from blt.model.entropy_model import EntropyModel
from blt.model.serialization import fingerprint
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.patching.shard import patch_shard
from blt.scoring import BltScorer, EntropyScorer, score_shard, summarize_scores
from blt.tokenizer import frame_tokens

SPACE = PatchRule(rule="space")
TEXTS = {
    "short": b"a document of a few words",
    "empty": b"",
    "one": b"x",
    "long": b"the quick brown fox jumps over the lazy dog. " * 6,
    "bytes": bytes(range(256)),
    "word": b"W" * 150,
}


def make_blt(**changes):
    keras.utils.set_random_seed(0)
    model = ByteLatentTransformer(
        **{
            "local_dim": 16,
            "global_dim": 24,
            "local_attention_config": {"type": "sliding_window", "num_heads": 2, "window": 16},
            "global_attention_config": {"type": "multi_head", "num_heads": 2},
            "num_global_layers": 1,
            "num_decoder_layers": 1,
            "ngram_sizes": [3],
            "ngram_table_size": 64,
            "max_sequence_length": 64,
            "max_patches": 32,
            "patch_rule": SPACE,
            **changes,
        }
    )
    for weight in model.trainable_weights:  # large, so that everything shows in the result
        if "norm" not in weight.path:
            weight.assign(4.0 * weight)
    return model


@pytest.fixture(scope="module")
def blt():
    return make_blt()


@pytest.fixture(scope="module")
def scorer(blt):
    return BltScorer(blt, min_context=24, batch_size=4, xz=True)


@pytest.fixture(scope="module")
def engine():
    keras.utils.set_random_seed(1)
    model = EntropyModel(dim=16, num_layers=1, num_heads=2, window=16)
    return EntropyEngine(model, lanes=2, row_length=64)


def write_shard(folder, texts, *, cuts=None):
    """`cuts`: bytes at which each document is cut into parts."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / byte_shard_name(0, 0)
    writer = ByteShardWriter(path)
    for doc_id, raw in texts.items():
        pieces = np.split(frame_tokens(raw), [c + 1 for c in cuts or [] if c < len(raw)])
        for part, tokens in enumerate(pieces):
            meta = json.dumps({"lang": "en" if part else "de"}).encode()
            writer.write(ByteRecord(doc_id, tokens, part, len(pieces), "input.txt", meta))
    writer.close()
    return path


def score(folder, texts, scorer, *, cuts=None, **options):
    byte_shard = write_shard(folder, texts, cuts=cuts)
    result = score_shard(byte_shard, folder, scorer=scorer, unit_index=0, roll=0, **options)
    table = pq.read_table(folder / scores_name(0, 0))
    return result, {row["doc_id"]: row for row in table.to_pylist()}


def bits(rows):
    return {doc_id: row["bits_per_byte"] for doc_id, row in rows.items()}


def test_a_row_says_what_the_model_and_compressors_say_of_each_document(tmp_path, scorer, blt):
    result, rows = score(tmp_path, TEXTS, scorer, rule=SPACE)
    assert list(rows) == list(TEXTS)
    for doc_id, raw in TEXTS.items():
        row = rows[doc_id]
        assert row["num_bytes"] == row["scored_bytes"] == len(raw)
        assert row["source"] == "input.txt"
        assert json.loads(row["meta"]) == {"lang": "de"}
        if raw:
            assert row["bits_per_byte"] == row["nats"] / math.log(2) / len(raw)
            assert row["zlib_bits_per_byte"] == 8 * len(zlib.compress(raw, 6)) / len(raw)
            assert row["xz_bits_per_byte"] > row["zlib_bits_per_byte"]
    assert rows["empty"]["bits_per_byte"] is None
    assert rows["empty"]["nats"] == 0.0 < rows["empty"]["eos_nats"]
    assert (rows["short"]["num_patches"], rows["short"]["mean_patch_bytes"]) == (6, 25 / 6)
    assert result.counts == {
        "documents": 6,
        "bytes": sum(map(len, TEXTS.values())),
        "scored_bytes": sum(map(len, TEXTS.values())),
        "tokens": sum(map(len, TEXTS.values())) + 6,
        "filtered": 0,
    }
    metadata = pq.read_schema(tmp_path / scores_name(0, 0)).metadata
    assert metadata[b"blt_fingerprint"].decode() == fingerprint(blt)
    assert json.loads(metadata[b"score_spec"])["min_context"] == 24

    # Within one window, the score is that of a plain forward pass.
    tokens = frame_tokens(TEXTS["short"])
    lengths = find_patch_lengths(tokens, None, SPACE)
    logits = np.array(blt(tokens[None].astype(np.int32), lengths[None]))[0].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -log_p[np.arange(len(tokens) - 1), tokens[1:]]
    assert rows["short"]["nats"] == pytest.approx(nats[:-1].sum(), abs=1e-4)
    assert rows["short"]["eos_nats"] == pytest.approx(nats[-1], abs=1e-4)


def test_no_score_depends_on_what_is_scored_beside_it(tmp_path, scorer, blt):
    _, rows = score(tmp_path / "a", TEXTS, scorer, rule=SPACE)
    _, backwards = score(tmp_path / "b", dict(reversed(TEXTS.items())), scorer, rule=SPACE)
    assert bits(rows) == bits(backwards)
    _, alone = score(tmp_path / "c", {"long": TEXTS["long"]}, scorer, rule=SPACE)
    assert alone["long"]["nats"] == rows["long"]["nats"]
    _, one_by_one = score(
        tmp_path / "d", TEXTS, BltScorer(blt, min_context=24, batch_size=1), rule=SPACE
    )
    for doc_id, value in bits(rows).items():
        assert one_by_one[doc_id]["bits_per_byte"] == pytest.approx(value, abs=1e-5)


def test_a_document_in_parts_is_scored_as_the_whole(tmp_path, scorer):
    _, whole = score(tmp_path / "a", {"long": TEXTS["long"]}, scorer, rule=SPACE)
    _, parts = score(tmp_path / "b", {"long": TEXTS["long"]}, scorer, rule=SPACE, cuts=[49, 184])
    assert parts == whole  # both cuts are where patches begin


def test_a_longer_window_that_holds_the_document_changes_nothing_but_context(tmp_path, blt):
    _, short = score(tmp_path / "a", TEXTS, BltScorer(blt, min_context=60), rule=SPACE)
    wide = make_blt(max_sequence_length=320, max_patches=320)
    _, whole = score(tmp_path / "b", TEXTS, BltScorer(wide), rule=SPACE)
    assert short["short"]["nats"] == pytest.approx(whole["short"]["nats"], abs=1e-4)
    assert short["long"]["nats"] != pytest.approx(whole["long"]["nats"], abs=1e-4)


def test_a_uniform_model_scores_log2_of_the_vocabulary(tmp_path):
    uniform = make_blt()
    uniform.local_decoder.output_layer.kernel.assign(
        keras.ops.zeros_like(uniform.local_decoder.output_layer.kernel)
    )
    _, rows = score(tmp_path, TEXTS, BltScorer(uniform, batch_size=4), rule=SPACE)
    found = {value for value in bits(rows).values() if value is not None}
    assert max(abs(value - math.log2(260)) for value in found) < 1e-6


def test_the_entropy_model_scores_every_byte_once(tmp_path, engine):
    scorer = EntropyScorer(engine)
    _, rows = score(tmp_path / "a", TEXTS, scorer)
    _, parts = score(tmp_path / "b", TEXTS, scorer, cuts=[7, 100, 200])
    for doc_id, raw in TEXTS.items():
        assert rows[doc_id]["scored_bytes"] == parts[doc_id]["scored_bytes"] == len(raw)
        assert rows[doc_id]["num_patches"] is None
        (result,) = engine.run([(0, frame_tokens(raw))])
        assert rows[doc_id]["nats"] == pytest.approx(result.token_nats[1:-1].sum(), abs=1e-4)
        assert rows[doc_id]["nats"] == pytest.approx(parts[doc_id]["nats"], abs=1e-4)
        assert rows[doc_id]["eos_nats"] == pytest.approx(result.token_nats[-1], abs=1e-5)


@pytest.mark.parametrize("reset_on_newline", [False, True])
def test_boundaries_and_the_embedded_rule_give_the_same_scores(tmp_path, engine, reset_on_newline):
    rule = PatchRule(rule="monotonic", threshold_nats=0.0, reset_on_newline=reset_on_newline)
    texts = {**TEXTS, "lines": b"the same line\n" * 5 + b"and another\n\nthe same line"}
    model = make_blt(entropy_fingerprint=engine.fingerprint, patch_rule=rule)
    scorer = BltScorer(model, batch_size=4)
    byte_shard = write_shard(tmp_path, texts)
    metadata = {"byte_shard_sha256": sha256_file(byte_shard)}
    patched = patch_shard(
        byte_shard, tmp_path, engine=engine, rule=rule, unit_index=0, roll=0, metadata=metadata
    )
    assert patched.counts["patches"] > 40
    boundaries = tmp_path / patches_name(0, 0)
    _, given = score(tmp_path, texts, scorer, boundaries=boundaries)
    _, found = score(tmp_path, texts, scorer, engine=engine, rule=rule)
    assert given == found

    with pytest.raises(UserError, match="--patches: missing; this BLT does not know the rule"):
        score(tmp_path, texts, scorer)
    with pytest.raises(UserError, match="--entropy-model: missing; the patches of this BLT need"):
        score(tmp_path, texts, scorer, rule=rule)
    other = BltScorer(make_blt())
    with pytest.raises(UserError, match=r"were made by entropy model .* but a rule without"):
        score(tmp_path, texts, other, boundaries=boundaries)
    with pytest.raises(UserError, match=r"made from another bytes-00000-000\.tfrecord"):
        score(tmp_path, {"short": b"changed"}, scorer, boundaries=boundaries)


def test_boundaries_of_other_records_are_refused(tmp_path, scorer):
    write_shard(tmp_path, {"a": b"one two"})
    patch_shard(
        tmp_path / byte_shard_name(0, 0), tmp_path, engine=None, rule=SPACE, unit_index=0, roll=0
    )
    boundaries = tmp_path / patches_name(0, 0)
    with pytest.raises(WorkError, match="row 0 describes part 0 of document 'a', 9 tokens"):
        score(tmp_path, {"b": b"one two"}, scorer, boundaries=boundaries)
    with pytest.raises(WorkError, match=r"bytes-00000-000\.tfrecord goes on after 1 records"):
        score(tmp_path, {"a": b"one two", "b": b""}, scorer, boundaries=boundaries)


def test_only_documents_of_the_split_are_scored(tmp_path, engine):
    texts = {f"doc-{i}": b"text" for i in range(40)}
    held_out = [doc_id for doc_id in texts if is_held_out(doc_id)]
    scorer = EntropyScorer(engine)
    result, valid = score(tmp_path, texts, scorer, split="valid")
    assert list(valid) == held_out
    assert 0 < len(held_out) == 40 - result.counts["filtered"]
    _, train = score(tmp_path, texts, scorer, split="train")
    assert sorted([*train, *valid]) == sorted(texts)
    with pytest.raises(UserError, match="--split test: not one of all, valid, train"):
        score(tmp_path, texts, scorer, split="test")


def test_records_are_read_as_they_are_needed(tmp_path, scorer):
    byte_shard = write_shard(tmp_path, {f"d{i}": b"some words here" for i in range(100)})
    taken = []

    def parts():
        for record in read_byte_shard(byte_shard):
            taken.append(record.doc_id)
            yield record, find_patch_lengths(record.tokens, None, SPACE)

    next(scorer.score(parts()))
    assert len(taken) <= 2 * scorer._batch_size + 1  # two batches are under way


def test_the_summary_is_recomputed_from_the_table(tmp_path, scorer):
    texts = {**TEXTS, **{f"d{i}": b"ab cd" * i for i in range(20)}}
    _, rows = score(tmp_path, texts, scorer, rule=SPACE)
    path = tmp_path / scores_name(0, 0)
    summary = summarize_scores([path], by=["lang"])
    num_bytes = sum(map(len, texts.values()))
    total = math.fsum(row["nats"] for row in rows.values())
    assert (summary["documents"], summary["bytes"]) == (26, num_bytes)
    assert summary["bits_per_byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-12)
    zlib_bits = sum(8 * len(zlib.compress(raw, 6)) for raw in texts.values() if raw)
    assert summary["zlib_bits_per_byte"] == pytest.approx(zlib_bits / num_bytes, rel=1e-12)
    known = [value for value in bits(rows).values() if value is not None]
    assert summary["percentiles"]["50"] == pytest.approx(np.median(known), rel=1e-12)
    figures = {k: v for k, v in summary.items() if k in summary["by"]["lang"]["values"]["de"]}
    assert summary["by"]["lang"]["values"] == {"de": figures}
    # Twice the table is twice the sums and the same figures.
    twice = summarize_scores([path, path])
    assert twice["bytes"] == 2 * num_bytes
    assert twice["bits_per_byte"] == pytest.approx(summary["bits_per_byte"], rel=1e-14)


def test_an_empty_corpus_has_no_figures(tmp_path, engine):
    score(tmp_path, {"empty": b""}, EntropyScorer(engine))
    summary = summarize_scores([tmp_path / scores_name(0, 0)])
    assert (summary["documents"], summary["bytes"], summary["bits_per_byte"]) == (1, 0, None)
    assert summary["percentiles"] == {}


class NanEngine:
    """An engine whose numbers overflowed."""

    fingerprint, context, precision = "0" * 64, {}, "float32"

    def run(self, parts, **_):
        for key, tokens, _continued in parts:
            nan = np.full(len(tokens), np.nan, np.float32)
            yield DocumentEntropies(key=key, entropies=nan, token_nats=nan)


def test_a_model_that_gives_no_numbers_gives_no_scores(tmp_path):
    with pytest.raises(WorkError, match="document 'empty': the model gives it NaN or an infi"):
        score(tmp_path, {"empty": b"", "a": b"a"}, EntropyScorer(NanEngine()))
    assert not list(tmp_path.glob("scores-*"))
    byte_shard = tmp_path / byte_shard_name(0, 0)
    with pytest.raises(WorkError, match="document 'empty': the entropy model gives it NaN"):
        patch_shard(
            byte_shard,
            tmp_path,
            engine=NanEngine(),
            rule=PatchRule(rule="entropy", threshold_nats=1.0),
            unit_index=0,
            roll=0,
        )
