"""No NumPy array meets a tensor in an operator of Python's: PyTorch, unlike TensorFlow and JAX,
does not mix them.

TensorFlow's operators tell: whichever side the array is on, they are asked. So this holds the law
where PyTorch is not installed. `keras.ops` may be given either: they convert on every backend.
"""

import sys

import keras
import numpy as np
import pytest
from keras import ops

from blt.engine import EntropyEngine
from blt.generation import generate
from blt.layers import ByteEmbedding, make_block_mask
from blt.layers.patcher import Patcher, cut_context
from blt.layers.patches import PatchLayout
from blt.layers.rotary import apply_rotary, rotary_tables
from blt.patching.rules import PatchRule
from blt.training.common import token_nats
from tests.blt.model.test_keras_methods import (
    PATCH_LENGTHS,
    TOKENS,
    make_blt,
    make_entropy_model,
)

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="watches TensorFlow's operators"
)

SEGMENT_IDS = np.ones_like(TOKENS)
ENTROPIES = np.random.default_rng(1).random(TOKENS.shape, "float32")
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@pytest.fixture(autouse=True)
def operators_take_no_arrays(monkeypatch):
    import tensorflow as tf

    names = [*_BINARY, *(f"r{name}" for name in _BINARY), *_COMPARISONS]
    for name in (f"__{name}__" for name in names):
        monkeypatch.setattr(tf.Tensor, name, _checked(name, getattr(tf.Tensor, name)))


def _checked(name, operator):
    def checked(self, other):
        module = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(other, np.ndarray | np.generic) and module.startswith("blt."):
            raise AssertionError(f"{module}: {name} of a tensor and a NumPy array")
        return operator(self, other)

    return checked


def test_the_operators_are_watched(monkeypatch):
    monkeypatch.setitem(globals(), "__name__", "blt.somewhere")
    for mix in (lambda: ops.ones(2) + np.ones(2), lambda: np.ones(2) < ops.ones(2)):
        with pytest.raises(AssertionError, match=r"blt.somewhere: __\w+__ of a tensor"):
            mix()


@pytest.mark.parametrize(
    "rule",
    [
        PatchRule(threshold_nats=0.5, reset_on_newline=True),
        PatchRule(rule="monotonic", threshold_nats=0.1, max_patch_length=4),
        PatchRule(rule="combined", threshold_nats=0.5, threshold_add_nats=0.1),
        PatchRule(rule="static", patch_size=4),
        PatchRule(rule="space"),
    ],
    ids=lambda rule: rule.rule,
)
def test_patchers_given_arrays_do_as_given_tensors(rule):
    """Was, in `cut_context`: segment ids, an array, plus the lines before, a tensor."""
    arrays = (ENTROPIES, TOKENS, SEGMENT_IDS)
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    for function in (
        lambda _, tokens, segments: cut_context(tokens, segments, rule),
        Patcher(rule).cut,
    ):
        for found, expected in zip(function(*arrays), function(*tensors), strict=True):
            np.testing.assert_array_equal(
                ops.convert_to_numpy(found), ops.convert_to_numpy(expected)
            )


def test_layers_and_their_helpers():
    """Was, in `softmax_by_patch`: scores, an array, less the largest of a patch, a tensor."""
    x = np.ones((2, 20, 2, 3), "float32")
    for across in (False, True):
        layout = PatchLayout(PATCH_LENGTHS, SEGMENT_IDS, across_documents=across)
        layout.patch_slots(1)
        layout.readable_patches(x[:, :4], 2)
        layout.softmax_by_patch(x[..., 0], x, layout.patch_slots())
        for how in ("max", "min", "avg"):
            layout.reduce_by_patch(x[:, :, 0], how)
    PatchLayout(PATCH_LENGTHS, SEGMENT_IDS, closes=SEGMENT_IDS > 0)
    make_block_mask(SEGMENT_IDS, window=8, block_size=4)
    make_block_mask(SEGMENT_IDS, window=8, block_size=4, past_segment_ids=SEGMENT_IDS[:, :8])
    ByteEmbedding(260, 8, ngram_sizes=[2, 3], ngram_table_size=50).ngram_rows(TOKENS, SEGMENT_IDS)
    for num_positions in (20, 5000):
        tables = rotary_tables(num_positions, 8, 10_000.0)
        apply_rotary(np.ones((1, num_positions, 1, 8), "float32"), *tables)
    token_nats(np.ones((2, 20, 260), "float32"), TOKENS)


def test_models():
    entropy_model = make_entropy_model(window=32)
    entropy_model(TOKENS, SEGMENT_IDS)
    state = entropy_model.initial_state(2)
    entropy_model.stream(TOKENS[:, :16], SEGMENT_IDS[:, :16], state)
    entropy_model.compute_entropy(np.ones((1, 260), "float32"))
    for options in (
        {},
        {"global_moe_config": {"num_experts": 2, "gating_config": {"capacity_factor": 1.0}}},
        {"compat": "hf", "cross_attention_config": {"encoder_window": 2, "decoder_window": 2}},
        {"patch_rule": {"threshold_nats": 5.5, "reset_on_newline": True}},
    ):
        model = make_blt(**options)
        model(TOKENS, PATCH_LENGTHS, SEGMENT_IDS)
        model(TOKENS, PATCH_LENGTHS)
        model.cut_patches(TOKENS, SEGMENT_IDS)
        model(TOKENS, PATCH_LENGTHS, training=True)


def test_generation_and_engine():
    model = make_blt(patch_rule={"threshold_nats": 5.5, "reset_on_newline": True})
    for use_cache in (True, False):
        generate(model, ["a b", "\n"], max_new_tokens=4, seed=1, use_cache=use_cache)
    engine = EntropyEngine(make_entropy_model(), num_threads=1)
    assert len(list(engine.run([(0, np.arange(1, 9)), (1, np.arange(1, 5))]))) == 2
