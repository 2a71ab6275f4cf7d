"""A BLT for patches that are snapped to UTF-8 characters: it is given them, it cannot cut them."""

import numpy as np
import pytest
from keras import ops

from blt.errors import ConfigError, UserError
from blt.layers.patcher import Patcher
from blt.model.blt import create_blt, load_blt
from blt.model.serialization import save_model
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.scoring.shard import check_can_cut
from blt.tokenizer import frame_tokens

RULE = PatchRule(rule="byte", snap_utf8=True)


@pytest.fixture(scope="module")
def model():
    return create_blt("tiny", patch_rule=RULE, entropy_model=None, ngram_sizes=[])


def test_it_runs_on_patches_that_are_given(model, tmp_path):
    tokens = frame_tokens("é東".encode())
    lengths = find_patch_lengths(tokens, None, RULE)
    inputs = {"tokens": tokens[None].astype("int32"), "patch_lengths": lengths[None]}
    logits = ops.convert_to_numpy(model(**inputs))
    save_model(model, tmp_path / "model.keras")
    again = load_blt(tmp_path / "model.keras")
    assert again.patch_rule == RULE
    found = ops.convert_to_numpy(again(**inputs))
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)


def test_it_refuses_to_cut_them(model):
    with pytest.raises(ConfigError, match="snap_utf8=True: .* depends on bytes to come"):
        Patcher(RULE)
    with pytest.raises(ConfigError, match="patch_lengths are needed: .* snap_utf8"):
        model(np.array([[1, 70, 71]]))
    with pytest.raises(ConfigError, match="generate: .* depends on bytes that are not there yet"):
        model.generate("é")
    with pytest.raises(UserError, match="--patches: missing; .* --snap-utf8"):
        check_can_cut(None, RULE)
