"""A converted model has the weights that its checkpoint has, whatever the widths."""

from pathlib import Path

import keras
import numpy as np
import pytest

from blt.conversion.checkpoint import Checkpoint, Weight, read_checkpoint
from blt.conversion.export import write_hugging_face
from blt.conversion.huggingface import read_hugging_face
from blt.conversion.meta import MetaOptions, read_meta
from blt.errors import UserError
from blt.model.loading import load_model
from blt.model.serialization import save_model
from tests.blt.conversion.checkpoints import (
    hf_patcher,
    random_blt,
    random_entropy_model,
    random_hf_blt,
)

TOKENS = np.array([[1, 70, 71, 72, 36, 90, 91, 2]])
DECODER = "model.local_decoder.patch_embedding_projection.weight"
GLOBAL = "model.global_transformer.token_embedding_projection.weight"
EMBEDDING = "model.local_encoder.embed_tokens.weight"


def checkpoint_of(config, weights):
    """Returns a checkpoint that lies in memory."""
    lazy = {name: Weight(array.shape, lambda array=array: array) for name, array in weights.items()}
    return Checkpoint(Path("folder"), Path("folder/config.json"), config, lazy)


def read_hf(config, weights):
    return read_hugging_face(checkpoint_of(config, weights))


def read_authors(config, weights):
    return read_meta(checkpoint_of(config, weights), MetaOptions())


def tie(config, weights, embedding, output, kept):
    """Ties the logits to the embedding; a file holds the matrix by the `kept` of both names."""
    table = weights.pop(embedding)
    del weights[output]
    config["tie_word_embeddings"] = True
    weights |= dict.fromkeys(kept, table)


WIDTHS = {
    "equal widths": {"dim_global": 12, "cross_attn_k": 1},
    "equal widths, two slices": {"dim_global": 12, "cross_attn_k": 2},
    "equal widths, both projections": {
        "dim_global": 12,
        "cross_attn_k": 1,
        "projections": ("global", "decoder"),
    },
    "unequal widths": {"dim_global": 20, "cross_attn_k": 1},
    "unequal widths, two slices": {"dim_global": 20, "cross_attn_k": 2},
    "slices that are the global width": {"dim_global": 24, "cross_attn_k": 2},
    "the same, both projections": {
        "dim_global": 24,
        "cross_attn_k": 2,
        "projections": ("global", "decoder"),
    },
}
TIES = {
    "untied": None,
    "by the embedding": [EMBEDDING],
    "by the output": ["lm_head.weight"],
    "by both": [EMBEDDING, "lm_head.weight"],
}


def comes_back(config, weights, folder):
    """Takes a checkpoint through a model file and out again, and compares all that it holds."""
    model, _ = read_hf(config, weights)
    save_model(model, folder / "m.keras")
    again = load_model(folder / "m.keras")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(TOKENS)) for m in (model, again)))
    write_hugging_face(again, folder / "back", source=folder / "m.keras")
    back = read_checkpoint(folder / "back")
    assert back.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back.weights[name].load(), array)
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(m(TOKENS)) for m in (model, read_hugging_face(back)[0]))
    )
    for name in ("tie_word_embeddings", "cross_attn_k"):
        assert back.config.get(name) == config.get(name, back.config.get(name))


@pytest.mark.parametrize("changes", WIDTHS.values(), ids=WIDTHS)
def test_a_checkpoint_comes_back_with_its_projections(changes, tmp_path):
    config, weights = random_hf_blt(**changes)
    assert DECODER in weights
    comes_back(config, weights, tmp_path)


@pytest.mark.parametrize("changes", [WIDTHS["equal widths"], {}], ids=["equal", "unequal"])
@pytest.mark.parametrize("kept", TIES.values(), ids=TIES)
def test_a_checkpoint_comes_back_tied_as_it_was(kept, changes, tmp_path):
    config, weights = random_hf_blt(**changes)
    if kept:
        tie(config, weights, EMBEDDING, "lm_head.weight", kept)
        prefix = "model.patcher."
        names = [prefix + name for name in ("embed_tokens.weight", "lm_head.weight")]
        kept_there = [
            name for name, other in zip(names, TIES["by both"], strict=True) if other in kept
        ]
        tie(config["patcher_config"], weights, *names, kept_there)
    comes_back(config, weights, tmp_path)


@pytest.mark.parametrize(
    "kept", [None, ["embed_tokens.weight"], ["lm_head.weight"]], ids=["untied", "one", "other"]
)
def test_a_patcher_comes_back_tied_as_it_was(kept, tmp_path):
    config, weights = hf_patcher(*random_entropy_model())
    if kept:
        tie(config, weights, "embed_tokens.weight", "lm_head.weight", kept)
        del config["model_type"]  # its weights say it
    comes_back(config, weights, tmp_path)


def test_a_projection_that_only_one_side_has_is_said():
    config, weights = random_hf_blt(**WIDTHS["equal widths"])
    del weights[DECODER]
    model, notes = read_hf(config, weights)
    assert model.local_decoder.patch_projection is None
    assert "It has no model.local_decoder.patch_embedding_projection" in notes[0]
    config, weights = random_hf_blt(**WIDTHS["equal widths, both projections"])
    config["global_config"]["encoder_cross_output_size"] = 12
    model, notes = read_hf(config, weights)
    assert model.global_transformer.projection is not None
    assert ["token_embedding_projection" in note for note in notes] == [True]


@pytest.mark.parametrize(
    "changes",
    [{"dim_global": 12, "cross_attn_k": 2}, {"dim_global": 24, "cross_attn_k": 2}, {}],
    ids=["equal widths", "slices that are the global width", "unequal widths"],
)
def test_a_projection_that_is_needed_and_missing_is_named(changes):
    config, weights = random_hf_blt(**changes)
    del weights[DECODER]
    with pytest.raises(UserError, match=f"1 weight is missing of the model .*: {DECODER}"):
        read_hf(config, weights)


def test_an_option_that_says_what_widths_say_is_left_unsaid():
    """So that models of checkpoints that were converted before keep their fingerprints."""
    for read, checkpoint in (
        (read_hf, random_hf_blt()),
        (read_authors, random_blt(dim_global=12, cross_attn_k=1)),
        (read_authors, random_entropy_model()),
    ):
        config = read(*checkpoint)[0].get_config()
        for name in ("global_projection", "decoder_projection", "tied_embeddings"):
            assert name not in config


CHECKPOINTS = {
    "hf": (read_hf, random_hf_blt),
    "hf patcher": (read_hf, lambda: hf_patcher(*random_entropy_model())),
    "meta": (read_authors, random_blt),
    "meta entropy model": (read_authors, random_entropy_model),
}


@pytest.mark.parametrize(("read", "make"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_every_weight_that_is_missing_is_named(read, make):
    config, weights = make()
    for name in weights:
        others = {other: array for other, array in weights.items() if other != name}
        with pytest.raises(UserError, match="missing of the model|it has no weight") as caught:
            read(config, others)
        assert name in str(caught.value)


@pytest.mark.parametrize(("read", "make"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_every_weight_that_ours_cannot_hold_is_named(read, make):
    config, weights = make()
    surplus = [name.replace(".weight", ".bias") for name in weights]
    surplus += [
        "norm_in_between.weight",
        "model.norm.weight",
        "encoder_hash_tok_embedding.9.weight",
    ]
    surplus += ["layers.0.self_attn.q_norm.weight", "model.vision.proj.weight"]
    for name in set(surplus):
        with pytest.raises(
            UserError, match="1 weight is left over.*what ours cannot hold"
        ) as error:
            read(config, weights | {name: np.zeros(3, np.float32)})
        assert name in str(error.value)
