import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.dataset.manifest import read_manifest
from blt.dataset.several import read_datasets
from blt.dataset.shard_feed import ShardFeed
from blt.dataset.splits import is_held_out
from blt.errors import UserError, WorkError
from blt.formats.byte_shard import ByteRecord
from blt.model import EntropyModel
from blt.model.serialization import fingerprint, load_entropy_model
from blt.tokenizer import BOS_ID, frame_tokens, tokens_to_bytes
from blt.training.common import NextTokenTrainer, record_every, token_nats
from blt.training.entropy import (
    EntropyTrainingConfig,
    _Corpus,
    make_rows,
    train_entropy_model,
)
from tests.blt.datasets import write_byte_dataset

SMALL = {
    "model": {
        "dim": 16,
        "num_layers": 1,
        "num_heads": 2,
        "window": 16,
        "ngram_sizes": [2],
        "ngram_table_size": 64,
    },
    "steps": 12,
    "batch_size": 4,
    "seq_len": 32,
    "learning_rate": 1e-2,
}


def as_records(text, doc_id, part_bytes):
    pieces = [text[i : i + part_bytes] for i in range(0, len(text), part_bytes)] or [b""]
    return [
        ByteRecord(doc_id, frame_tokens(p, add_bos=i == 0, add_eos=i == len(pieces) - 1), i)
        for i, p in enumerate(pieces)
    ]


def test_rows_of_the_documented_example():
    records = [ByteRecord("1", frame_tokens(b"AB")), ByteRecord("2", frame_tokens(b"C"))]
    a, b, c = (byte + 4 for byte in b"ABC")
    rows = [[part.tolist() for part in row] for row in make_rows(records, 4)]
    assert rows == [
        [[1, a, b, 1], [a, b, 2, c], [1, 1, 1, 2]],
        [[c, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]],
    ]


@settings(deadline=None)
@given(
    texts=st.lists(st.binary(max_size=40), max_size=8),
    part_bytes=st.integers(1, 50),
    seq_len=st.integers(1, 20),
)
def test_every_token_but_bos_is_a_target_once(texts, part_bytes, seq_len):
    records = [r for i, t in enumerate(texts) for r in as_records(t, str(i), part_bytes)]
    rows = list(make_rows(records, seq_len))
    expected = [id_ for text in texts for id_ in frame_tokens(text)[1:].tolist()]
    targets = [id_ for row in rows for id_ in row[1].tolist() if id_]
    assert targets == expected
    for tokens, row_targets, segment_ids in rows:
        assert tokens.shape == row_targets.shape == segment_ids.shape == (seq_len,)
        assert ((segment_ids == 0) == (row_targets == 0)).all()
        for t in range(seq_len - 1):
            if segment_ids[t] and segment_ids[t] == segment_ids[t + 1]:
                assert row_targets[t] == tokens[t + 1]


def test_equal_logits_cost_the_log_of_the_vocabulary():
    targets = np.array([[70, 71, 2, 0, 80, 2, 0, 0]], np.int32)
    nats = np.asarray(token_nats(np.zeros((1, 8, 260), np.float32), targets))
    np.testing.assert_allclose(nats, np.log(260), rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "num_records", "stretch"), [(300, 50, 6), (7, 50, 1), (101, 10, 1), (1, 1, 1)]
)
def test_record_every(steps, num_records, stretch):
    assert record_every(steps, num_records) == stretch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    text = b"Bytes are predicted from the bytes before them, one after the other. "
    documents = {f"doc-{i}": text[i % 7 :] * (1 + i % 3) for i in range(60)}
    folder = tmp_path_factory.mktemp("data") / "bytes"
    write_byte_dataset(folder, documents, num_shards=2, part_bytes=100)
    return folder


def test_training_learns_and_is_the_same_again(data, tmp_path):
    config = EntropyTrainingConfig(**SMALL)
    lines = []
    summary = train_entropy_model(data, tmp_path / "a.keras", config, lines.append)
    again = train_entropy_model(data, tmp_path / "b.keras", config)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    histories = [(tmp_path / f"{n}.keras.history.jsonl").read_text() for n in "ab"]
    assert histories[0] == histories[1]
    records = [json.loads(line) for line in histories[0].splitlines()]
    assert [record["step"] for record in records] == list(range(1, 13))
    assert records[0]["bits_per_byte"] > 7.5
    assert records[-1]["held_out_bits_per_byte"] == summary["held_out_bits_per_byte"] < 6.5
    assert sum("held_out_nats" in record for record in records) == 2
    assert records[-1]["kilobytes"] == 12 * 4 * 32 / 1000
    model = load_entropy_model(tmp_path / "a.keras")
    assert fingerprint(model) == summary["fingerprint"] == again["fingerprint"]
    assert any("held out" in line for line in lines)


def test_several_datasets_are_read_as_one_and_all_are_judged_by(tmp_path):
    text = b"Bytes are predicted from the bytes before them, one after the other. "
    documents = [(f"doc-{i}", b"%04d %b" % (i, text * 3)) for i in range(40)]
    folders = [tmp_path / name for name in ("whole", "a", "b")]
    write_byte_dataset(folders[0], dict(documents), num_shards=1)
    write_byte_dataset(folders[1], dict(documents[:30]))
    write_byte_dataset(folders[2], dict(documents[30:]))
    config = EntropyTrainingConfig(**{**SMALL, "max_valid_rows": 10**6})

    def rows(places, config):
        corpus = _Corpus(ShardFeed(read_datasets(places, "byte_shards")), config)
        held_out = [inputs["tokens"] for inputs, _ in corpus.valid_batches()]
        return corpus, np.concatenate(held_out)

    def begun(rows):
        """Which documents begin in these rows, by the digits that they begin with."""
        windows = zip(*(rows.ravel()[i:] for i in range(5)), strict=False)
        return {int(tokens_to_bytes(np.array(w))) for w in windows if w[0] == BOS_ID}

    held_out = [i for i in range(40) if is_held_out(f"doc-{i}", fraction=config.valid_fraction)]
    first, second = ([i for i in held_out if (i >= 30) == later] for later in (False, True))
    assert first and second
    corpus, found = rows(folders[1:], config)
    assert len(corpus._names) == 2 and corpus.has_training_text()
    assert np.count_nonzero(found) == np.count_nonzero(rows(folders[0], config)[1])
    assert begun(found) == set(held_out)
    # Where not all are looked at, each dataset has its share.
    _, few = rows(folders[1:], dataclasses.replace(config, max_valid_rows=4, batch_size=4))
    assert first[0] in begun(few) and second[0] in begun(few)
    assert begun(few) < set(held_out)


def test_figures_are_means_over_targets_and_never_over_batches():
    trainer = NextTokenTrainer(EntropyModel(dim=8, num_layers=1, num_heads=2, window=8))
    full = np.array([[70, 71, 72, 73, 74, 2]], np.int32)  # five bytes and EOS
    last = np.array([[70, 2, 0, 0, 0, 0]], np.int32)  # a byte and EOS
    certain = 100.0 * np.eye(260, dtype=np.float32)[last]
    trainer.compute_loss(y=full, y_pred=np.zeros((1, 6, 260), np.float32))
    trainer.compute_loss(y=last, y_pred=certain)
    assert float(trainer.nats_metric.result()) == pytest.approx(6 / 8 * math.log(260))
    assert float(trainer.bits_metric.result()) == pytest.approx(5 / 6 * math.log2(260))


def test_a_training_that_diverges_fails_and_writes_no_model(data, tmp_path):
    config = EntropyTrainingConfig(**{**SMALL, "steps": 3, "learning_rate": 1e30})
    with pytest.raises(WorkError, match=r"step \d: the loss .*is nan.* a lower --learning-rate"):
        train_entropy_model(data, tmp_path / "e.keras", config)
    assert not (tmp_path / "e.keras").exists()
    assert "NaN" not in (tmp_path / "e.keras.history.jsonl.part").read_text()


def test_a_training_that_is_stopped_leaves_what_was_there(data, tmp_path, monkeypatch):
    """Was: the old model with the history of the stopped training."""
    files = {"e.keras": b"model", "e.keras.history.jsonl": b"history"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def stop(model, training, held_out, config, reporter):
        reporter._history.write({"step": 1})
        raise KeyboardInterrupt

    monkeypatch.setattr("blt.training.entropy.fit_language_model", stop)
    with pytest.raises(KeyboardInterrupt):
        train_entropy_model(data, tmp_path / "e.keras", EntropyTrainingConfig(**SMALL))
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert (tmp_path / "e.keras.history.jsonl.part").read_text() == '{"step": 1}\n'


def test_held_out_documents_without_a_byte_give_no_figure(tmp_path):
    names = [f"doc-{i}" for i in range(30)]
    documents = {name: b"" if is_held_out(name) else b"some text" for name in names}
    assert b"" in documents.values()
    write_byte_dataset(tmp_path / "bytes", documents)
    config = EntropyTrainingConfig(**{**SMALL, "steps": 1})
    summary = train_entropy_model(tmp_path / "bytes", tmp_path / "e.keras", config)
    assert summary["held_out_bits_per_byte"] is None


def test_empty_documents_are_nothing_to_train_on(tmp_path):
    write_byte_dataset(tmp_path / "bytes", {f"doc-{i}": b"" for i in range(30)})
    with pytest.raises(UserError, match="no documents to train on"):
        train_entropy_model(
            tmp_path / "bytes", tmp_path / "e.keras", EntropyTrainingConfig(**SMALL)
        )


@pytest.mark.parametrize("learning_rate", [0.0, -1e-3, math.nan, math.inf])
def test_impossible_learning_rates_are_refused(learning_rate):
    with pytest.raises(UserError, match="--learning-rate .*: must be a number above 0"):
        EntropyTrainingConfig(learning_rate=learning_rate)


def test_held_out_documents_are_not_trained_on(data):
    corpus = _Corpus(ShardFeed(read_manifest(data)), EntropyTrainingConfig(**SMALL))
    trained = {r.doc_id for r in corpus._records(corpus._names, held_out=False)}
    judged = {r.doc_id for r in corpus._records(corpus._names, held_out=True)}
    assert trained | judged == {f"doc-{i}" for i in range(60)}
    assert judged == {doc_id for doc_id in trained | judged if is_held_out(doc_id)} != set()
    assert not trained & judged


def test_epochs_differ_in_order_alone(data):
    config = EntropyTrainingConfig(**SMALL)
    corpus = _Corpus(ShardFeed(read_manifest(data)), config)
    names = corpus._names
    one_epoch = len(list(make_rows(corpus._records(names, held_out=False), config.seq_len)))
    rows = list(itertools.islice(corpus._training_rows(), 2 * one_epoch))
    first, second = (
        sorted(np.bincount(row[1], minlength=260).tolist() for row in half)
        for half in (rows[:one_epoch], rows[one_epoch:])
    )
    total = np.sum(first, axis=0)[1:], np.sum(second, axis=0)[1:]
    np.testing.assert_array_equal(*total)
    assert any((a[1] != b[1]).any() for a, b in zip(rows, rows[one_epoch:], strict=False))
    config = EntropyTrainingConfig(**SMALL, seed=1)
    others = _Corpus(ShardFeed(read_manifest(data)), config)._training_rows()
    assert any((a[1] != b[1]).any() for a, b in zip(rows, others, strict=False))


def test_wrong_use_is_refused(data, tmp_path):
    config = EntropyTrainingConfig(**SMALL)
    with pytest.raises(UserError, match=r"ends with \.keras"):
        train_entropy_model(data, tmp_path / "model", config)
    empty = tmp_path / "empty"
    write_byte_dataset(empty, {})
    with pytest.raises(UserError, match="no documents to train on"):
        train_entropy_model(empty, tmp_path / "m.keras", config)
    with pytest.raises(UserError, match="Did you mean 'tiny'"):
        EntropyTrainingConfig(preset="tny")
    with pytest.raises(UserError, match="steps must be at least 1"):
        EntropyTrainingConfig(steps=0)


def test_a_missing_shard_is_found_before_training(tmp_path):
    documents = {f"doc-{i}": b"some text" for i in range(60)}
    data = write_byte_dataset(tmp_path / "bytes", documents, num_shards=3)
    data.shard_path(data.shards[2]).unlink()
    with pytest.raises(UserError, match="bytes-00002-000.tfrecord: missing, though the manifest"):
        train_entropy_model(
            tmp_path / "bytes", tmp_path / "e.keras", EntropyTrainingConfig(**SMALL)
        )
    assert not list(tmp_path.glob("e.keras*"))
