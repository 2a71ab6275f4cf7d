import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.errors import UserError
from blt.patching import PatchRule, count_byte_patches, find_patch_lengths
from blt.tokenizer import frame_tokens

HELLO = frame_tokens(b"hello")  # BOS h e l l o EOS
H = np.float32([0, 3.0, 1.0, 1.5, 0.5, 2.0, 1.9])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (PatchRule(threshold_nats=1.4), [1, 2, 2, 1, 1]),
        (PatchRule(threshold_nats=1.5), [1, 4, 1, 1]),  # the threshold itself is not above it
        (PatchRule(rule="monotonic", threshold_nats=0.4), [1, 2, 2, 2]),
        (PatchRule(rule="monotonic", threshold_nats=-0.2), [1, 2, 2, 1, 1]),
        (PatchRule(rule="combined", threshold_nats=1.4, threshold_add_nats=1.0), [1, 4, 2]),
        (PatchRule(rule="static", patch_size=2), [1, 2, 2, 2]),
        (PatchRule(rule="static", patch_size=4), [1, 4, 2]),
        (PatchRule(rule="space"), [1, 6]),
        (PatchRule(rule="byte"), [1] * 7),
        (PatchRule(rule="space", max_patch_length=4), [1, 4, 2]),
        (PatchRule(rule="space", max_patch_length=3), [1, 3, 3]),
    ],
)
def test_rules_on_hello(rule, expected):
    lengths = find_patch_lengths(HELLO, H if rule.needs_entropies else None, rule)
    assert lengths.tolist() == expected
    assert lengths.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab, cd", [1, 3, 4]),  # the comma ends its patch; the blank after it does not end another
        ("a b", [1, 2, 2]),
        ("été", [1, 1, 3, 2]),  # lead bytes are space-like, continuation bytes are not
        ("x1_2", [1, 3, 2]),
    ],
)
def test_space_rule(text, expected):
    tokens = frame_tokens(text.encode())
    assert find_patch_lengths(tokens, None, PatchRule(rule="space")).tolist() == expected


def test_a_continued_part_opens_one_patch_only():
    tokens = frame_tokens(b"abcd", add_bos=False)
    entropies = np.float32([0, 0, 2, 0, 0])
    rule = PatchRule(threshold_nats=1.0)
    assert find_patch_lengths(tokens, entropies, rule).tolist() == [2, 3]
    static = PatchRule(rule="static", patch_size=2)
    assert find_patch_lengths(tokens, None, static).tolist() == [2, 2, 1]


rules = st.one_of(
    st.builds(
        PatchRule,
        rule=st.sampled_from(["entropy", "monotonic"]),
        threshold_nats=st.floats(0, 5.5),
        max_patch_length=st.none() | st.integers(1, 9),
    ),
    st.builds(
        PatchRule,
        rule=st.just("combined"),
        threshold_nats=st.floats(-5.5, 5.5),
        threshold_add_nats=st.floats(-5.5, 5.5),
    ),
    st.builds(
        PatchRule,
        rule=st.just("static"),
        patch_size=st.integers(1, 9),
        max_patch_length=st.none() | st.integers(1, 9),
    ),
    st.builds(
        PatchRule,
        rule=st.sampled_from(["space", "byte"]),
        max_patch_length=st.none() | st.integers(1, 9),
    ),
)


@settings(deadline=None)
@given(raw=st.binary(max_size=60), rule=rules, seed=st.integers(0, 99), framed=st.booleans())
def test_patches_cover_the_tokens_and_never_depend_on_later_ones(raw, rule, seed, framed):
    tokens = frame_tokens(raw, add_bos=framed)
    entropies = np.random.default_rng(seed).uniform(0, 5.5, len(tokens)).astype(np.float32)
    lengths = find_patch_lengths(tokens, entropies, rule)
    assert lengths.sum() == len(tokens)
    assert lengths.min() >= 1
    starts = set(np.cumsum(lengths)[:-1].tolist())
    if framed:
        assert lengths[0] == 1
    if rule.max_patch_length:
        assert lengths.max() <= rule.max_patch_length
    for known in range(1, len(tokens)):
        shorter = find_patch_lengths(tokens[:known], entropies[:known], rule)
        assert set(np.cumsum(shorter)[:-1].tolist()) == {s for s in starts if s < known}
    with_bytes = 0
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        with_bytes += bool((tokens[end - length : end] >= 4).any())
    assert count_byte_patches(tokens, lengths) == with_bytes


def test_mean_patch_size_leaves_out_bos_and_eos_alone():
    tokens = frame_tokens(b"abcd")
    assert count_byte_patches(tokens, np.array([1, 2, 2, 1])) == 2
    assert count_byte_patches(tokens, np.array([1, 2, 3])) == 2
    assert count_byte_patches(frame_tokens(b""), np.array([1, 1])) == 0


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"rule": "entropie"}, "--rule entropie.*Did you mean 'entropy'"),
        ({}, "--threshold-nats: missing"),
        ({"threshold_nats": -0.1}, "--threshold-nats -0.1"),
        ({"threshold_nats": 5.57}, r"\[0.000, 5.561\]"),
        ({"threshold_nats": math.nan}, "--threshold-nats nan"),
        ({"rule": "combined", "threshold_nats": 1.0}, "--threshold-add-nats: missing"),
        ({"rule": "static"}, "--patch-size: missing"),
        ({"rule": "static", "patch_size": 0}, "--patch-size 0"),
        ({"rule": "space", "threshold_nats": 1.0}, "--threshold-nats: rule 'space' does not use"),
        ({"rule": "byte", "max_patch_length": 0}, "--max-patch-length 0"),
    ],
)
def test_wrong_rules_name_the_flag(arguments, flag):
    with pytest.raises(UserError, match=flag):
        PatchRule(**arguments)
