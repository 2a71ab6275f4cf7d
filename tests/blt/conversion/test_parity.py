"""Converted models compute what the reference implementations do."""

import keras
import numpy as np
import pytest

from blt.conversion.checkpoint import read_checkpoint
from blt.conversion.huggingface import read_hugging_face
from blt.conversion.meta import MetaOptions, read_meta
from tests.blt.conversion import numpy_reference
from tests.blt.conversion.checkpoints import (
    hf_blt,
    hf_patcher,
    random_blt,
    random_entropy_model,
    save_folder,
)
from tests.shared import SHARED, needs_shared

VECTORS = SHARED / "vectors"
LOGITS_TOLERANCE = 2e-4
ENTROPY_TOLERANCE = 1e-4

# Two documents in a row, the first of which ends inside the row; then nothing.
TOKENS = np.array([1, 70, 71, 72, 36, 70, 71, 2, 1, 72, 70, 71, 72, 36, 90, 91, 71])
PATCH_LENGTHS = np.array([1, 2, 2, 1, 2, 1, 3, 1, 5])  # of the tokens and the next


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def segment_ids(tokens):
    """Numbers documents from 1; each ends with its EOS."""
    is_end = tokens == 2
    return 1 + np.cumsum(is_end, axis=-1) - is_end


def close(actual, expected, tolerance):
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=0, atol=tolerance)


VARIANTS = {
    "as published": {},
    "of one width, with projections": {"dim_global": 12, "projections": ("global", "decoder")},
    "of one width, one slice, with the decoder's projection": {
        "dim_global": 12,
        "cross_attn_k": 1,
        "projections": ("decoder",),
    },
    "without cross-attention, of one width, with projections": {
        "cross_attn_encoder": False,
        "cross_attn_decoder": False,
        "dim_global": 12,
        "projections": ("global", "decoder"),
    },
    "cross-attention in all layers of the encoder, in one of the decoder": {
        "cross_attn_all_layers_encoder": True,
        "cross_attn_all_layers_decoder": False,
    },
    "bytes read several patches": {"cross_attn_window_decoder": 3},
    "patches see bytes before theirs": {"cross_attn_window_encoder": 2},
    "without cross-attention": {"cross_attn_encoder": False, "cross_attn_decoder": False},
    "without cross-attention, of one width": {
        "cross_attn_encoder": False,
        "cross_attn_decoder": False,
        "downsampling_by_pooling": "avg",
        "dim_global": 12,
    },
    "hash functions, grouped heads, the mean": {
        "encoder_hash_byte_group_nb_functions": 3,
        "n_heads_global": 5,
        "n_kv_heads_global": 1,
        "downsampling_by_pooling": "avg",
    },
    "slices that make the global width, the minimum": {
        "dim_global": 24,
        "downsampling_by_pooling": "min",
        "norm_eps": 1e-3,
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_blt_of_the_authors_computes_what_the_reference_does(changes, tmp_path):
    config, weights = random_blt(**changes)
    model, _ = read_meta(read_checkpoint(save_folder(tmp_path, config, weights)), MetaOptions())
    tokens, lengths = TOKENS, PATCH_LENGTHS
    if "cross_attn_window_encoder" in changes:  # which stops at the document in ours
        tokens, lengths = TOKENS[8:], PATCH_LENGTHS[5:]
    expected = numpy_reference.blt_logits(config, weights, tokens, lengths)
    logits = model(tokens[None], lengths[None], segment_ids(tokens[None]))
    close(logits[0], expected, LOGITS_TOLERANCE)


@pytest.mark.parametrize(
    "patch_lengths",
    [[1, 2, 3, 3], [1, 2, 3, 2], [1, 2, 3, 2, 0]],
    ids=["the last patch goes on", "the last patch ends", "the last patch ends, and is known to"],
)
def test_a_blt_of_hugging_face_computes_what_the_reference_does(patch_lengths, tmp_path):
    config, weights = random_blt(cross_attn_all_layers_encoder=True, n_layers_local_encoder=3)
    folder = save_folder(tmp_path, *hf_blt(config, weights, *hf_patcher(*random_entropy_model())))
    model, _ = read_hugging_face(read_checkpoint(folder))
    tokens = np.array([1, 70, 71, 72, 36, 90, 91, 2])
    lengths = np.array(patch_lengths)
    expected = numpy_reference.blt_logits(
        config,
        weights,
        tokens,
        lengths[lengths > 0],
        pools_each_layer=True,
        last_reads_previous=lengths[-1] > 0,
    )
    close(model(tokens[None], lengths[None])[0], expected, LOGITS_TOLERANCE)


@pytest.mark.parametrize("dim_global", [12, 20])
@pytest.mark.parametrize("cross_attn_k", [1, 2])
@pytest.mark.parametrize("is_tied", [False, True])
def test_widths_slices_and_ties_of_hugging_face(dim_global, cross_attn_k, is_tied, tmp_path):
    config, weights = random_blt(
        ("decoder",), dim_global=dim_global, cross_attn_k=cross_attn_k, patching_threshold=4.0
    )
    if is_tied:
        table = weights["local_encoder.tok_embeddings.weight"] / 3
        weights["local_encoder.tok_embeddings.weight"] = table
        weights["local_decoder.output.weight"] = table
    tokens, lengths = TOKENS[:8], np.array([1, 2, 2, 1, 3])
    expected = numpy_reference.blt_logits(config, weights, tokens, lengths)
    hf_config, hf_weights = hf_blt(config, weights, *hf_patcher(*random_entropy_model()))
    if is_tied:  # as `save_pretrained` writes it
        hf_config["tie_word_embeddings"] = True
        del hf_weights["model.local_encoder.embed_tokens.weight"]
    model, notes = read_hugging_face(read_checkpoint(save_folder(tmp_path, hf_config, hf_weights)))
    assert notes == []
    close(model(tokens[None], lengths[None])[0], expected, LOGITS_TOLERANCE)


def test_an_entropy_model_computes_what_the_reference_does(tmp_path):
    config, weights = random_entropy_model(sliding_window=4, norm_eps=1e-2)
    expected = numpy_reference.entropy_model_logits(config, weights, TOKENS)
    theirs = save_folder(tmp_path / "meta", config, weights)
    model, _ = read_meta(read_checkpoint(theirs), MetaOptions())
    close(model(TOKENS[None], segment_ids(TOKENS[None]))[0], expected, LOGITS_TOLERANCE)
    alone = TOKENS[:8]
    hf, _ = read_hugging_face(
        read_checkpoint(save_folder(tmp_path / "hf", *hf_patcher(config, weights)))
    )
    close(hf(alone[None])[0], expected[:8], LOGITS_TOLERANCE)


def _vectors(name):
    return np.load(VECTORS / f"{name}.npz")


def _documents(vectors):
    return [name.removeprefix("tokens/") for name in vectors.files if name.startswith("tokens/")]


@needs_shared
def test_the_numpy_reference_gives_the_vectors():
    vectors = _vectors("blt_meta_A")
    checkpoint = read_checkpoint(VECTORS / "blt_meta_A.npz")
    config = {"norm_eps": 1e-5, **checkpoint.config["config"]}
    weights = {name: weight.load() for name, weight in checkpoint.weights.items()}
    for run in ("ascii", "packed", "sum_is_N"):
        lengths = vectors[f"patch_lengths/{run}"][0]
        tokens = vectors[f"tokens/{run}"][0]
        logits = numpy_reference.blt_logits(config, weights, tokens, lengths[lengths > 0])
        close(logits, vectors[f"logits_intended/{run}"][0], LOGITS_TOLERANCE)


@needs_shared
@pytest.mark.parametrize(("window", "name"), [(None, "win512"), (16, "win16"), (8192, "causal")])
def test_the_authors_entropy_model(window, name):
    checkpoint = read_checkpoint(VECTORS / "entropy_meta_T.npz")
    model, _ = read_meta(checkpoint, MetaOptions(window=window))
    vectors = _vectors("entropy_meta_T")
    for document in _documents(vectors):
        if f"entropy_{name}/{document}" not in vectors.files:
            continue
        logits = model(vectors[f"tokens/{document}"][None])
        entropies = model.compute_entropy(logits)[0]
        close(entropies, vectors[f"entropy_{name}/{document}"], ENTROPY_TOLERANCE)
        if f"logits_{name}/{document}" in vectors.files:
            places = slice(None)
            if f"logits_positions/{document}" in vectors.files:
                places = vectors[f"logits_positions/{document}"]
            expected = vectors[f"logits_{name}/{document}"]
            close(to_numpy(logits)[0, places], expected, LOGITS_TOLERANCE)
    if window == 16:
        tokens = vectors["packed/tokens"][None]
        logits = model(tokens, segment_ids(tokens))[0]
        close(logits, vectors["packed/logits_blockcausal_win16"], LOGITS_TOLERANCE)


@needs_shared
def test_the_authors_blt():
    model, _ = read_meta(read_checkpoint(VECTORS / "blt_meta_A.npz"), MetaOptions())
    vectors = _vectors("blt_meta_A")
    runs = _documents(vectors)
    assert len(runs) == 6
    for run in runs:
        tokens = vectors[f"tokens/{run}"]
        logits = model(tokens, vectors[f"patch_lengths/{run}"], segment_ids(tokens))
        close(logits, vectors[f"logits_intended/{run}"], LOGITS_TOLERANCE)


@needs_shared
@pytest.mark.parametrize(
    ("checkpoint", "expected", "entropies"),
    [
        ("blt_hf.npz", "blt_hf", "patcher_entropies"),
        ("hf_checkpoint", "hf_checkpoint/expected", "entropies"),
    ],
    ids=["vectors", "save_pretrained"],
)
def test_hugging_faces_blt(checkpoint, expected, entropies):
    model, _ = read_hugging_face(read_checkpoint(VECTORS / checkpoint))
    vectors = _vectors(expected)
    for document in _documents(vectors):
        tokens = vectors[f"tokens/{document}"].reshape(1, -1)
        lengths = vectors[f"patch_lengths/{document}"].reshape(1, -1)
        found = model.entropy_model.compute_entropy(model.entropy_model(tokens))
        close(found[0], vectors[f"{entropies}/{document}"].reshape(-1), ENTROPY_TOLERANCE)
        own = to_numpy(model.patcher(found, tokens))[0]
        np.testing.assert_array_equal(own[own > 0], lengths[lengths > 0])
        logits = vectors[f"logits/{document}"]
        close(model(tokens, lengths), logits, LOGITS_TOLERANCE)
        close(model(tokens), logits, LOGITS_TOLERANCE)
