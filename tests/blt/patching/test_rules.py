import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blt.errors import UserError
from blt.patching import PatchRule, count_byte_patches, find_patch_lengths, find_patches
from blt.patching.rules import count_boundaries_inside_characters
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


options = st.fixed_dictionaries(
    {
        "max_patch_length": st.none() | st.integers(1, 9),
        "compat": st.sampled_from([None, "meta"]),
        "snap_utf8": st.booleans(),
    }
)
numbers = st.one_of(
    st.fixed_dictionaries(
        {"rule": st.sampled_from(["entropy", "monotonic"]), "threshold_nats": st.floats(0, 5.5)}
    ),
    st.fixed_dictionaries(
        {
            "rule": st.just("combined"),
            "threshold_nats": st.floats(-5.5, 5.5),
            "threshold_add_nats": st.floats(-5.5, 5.5),
        }
    ),
    st.fixed_dictionaries({"rule": st.just("static"), "patch_size": st.integers(1, 9)}),
    st.fixed_dictionaries({"rule": st.sampled_from(["space", "byte"])}),
)
rules = st.builds(lambda numbers, options: PatchRule(**numbers, **options), numbers, options)
# Text, and text whose bytes were cut, doubled or strewn with others.
raw_texts = st.lists(
    st.binary(max_size=3)
    | st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.text("é東😀€", max_size=4).map(lambda text: text.encode()[1:-1]),
    max_size=6,
).map(b"".join)


@settings(deadline=None)
@given(raw=raw_texts, rule=rules, seed=st.integers(0, 99), framed=st.booleans())
def test_patches_cover_the_tokens_and_never_depend_on_later_ones(raw, rule, seed, framed):
    if rule.compat is not None and rule.rule == "static":
        framed = False  # whose strides begin at BOS
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
    ahead = 3 if rule.snap_utf8 else 0  # how many tokens a boundary depends on from its own on
    for known in range(1, len(tokens)):
        shorter = find_patch_lengths(tokens[:known], entropies[:known], rule)
        decided = {s for s in np.cumsum(shorter)[:-1].tolist() if s < known - ahead}
        assert decided == {s for s in starts if s < known - ahead}
    with_bytes = 0
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        with_bytes += bool((tokens[end - length : end] >= 4).any())
    assert count_byte_patches(tokens, lengths) == with_bytes


@settings(deadline=None)
@given(
    raws=st.lists(st.tuples(raw_texts, st.booleans(), st.booleans()), min_size=1, max_size=6),
    rule=rules,
    seed=st.integers(0, 99),
)
def test_many_documents_are_cut_as_each_alone(raws, rule, seed):
    parts = [frame_tokens(raw, add_bos=bos, add_eos=eos) for raw, bos, eos in raws]
    tokens = np.concatenate(parts)
    num_tokens = np.array([len(part) for part in parts])
    entropies = np.random.default_rng(seed).uniform(0, 5.5, len(tokens)).astype(np.float32)
    alone = [
        find_patch_lengths(part, given, rule)
        for part, given in zip(parts, np.split(entropies, np.cumsum(num_tokens)[:-1]), strict=True)
    ]
    lengths, num_patches = find_patches(tokens, num_tokens, entropies, rule)
    assert lengths.tolist() == np.concatenate(alone).tolist()
    assert num_patches.tolist() == [len(found) for found in alone]
    assert count_byte_patches(tokens, lengths) == sum(map(count_byte_patches, parts, alone))
    assert count_boundaries_inside_characters(tokens, num_tokens, lengths) == sum(
        len(starts_inside_characters(part, found)) for part, found in zip(parts, alone, strict=True)
    )


def starts_inside_characters(tokens, lengths):
    """Returns the places where patches begin inside a character, as Python's decoder has them."""
    raw = bytes(int(token) - 4 if token >= 4 else ord(" ") for token in tokens)
    inside, place = set(), 0
    for character in raw.decode("utf-8", "surrogateescape"):
        size = len(character.encode("utf-8", "surrogateescape"))
        inside.update(range(place + 1, place + size))
        place += size
    return inside & set((np.cumsum(lengths) - lengths).tolist())


@settings(deadline=None)
@given(raw=raw_texts, numbers=numbers, seed=st.integers(0, 99))
def test_snapped_patches_are_whole_characters(raw, numbers, seed):
    tokens = frame_tokens(raw)
    entropies = np.random.default_rng(seed).uniform(0, 5.5, len(tokens)).astype(np.float32)
    plain = find_patch_lengths(tokens, entropies, PatchRule(**numbers))
    snapped = find_patch_lengths(tokens, entropies, PatchRule(**numbers, snap_utf8=True))
    assert snapped.sum() == len(tokens)
    assert not starts_inside_characters(tokens, snapped)
    starts, kept = (set((np.cumsum(found) - found).tolist()) for found in (plain, snapped))
    inside = starts_inside_characters(tokens, plain)
    assert starts - inside <= kept  # no other boundary has moved
    assert len(kept) <= len(starts)  # two in one place are one
    for place in kept - starts:  # and none has come from anywhere but a character's inside
        assert inside & {place + 1, place + 2, place + 3}
    if not inside:
        assert snapped.tolist() == plain.tolist()
    # Snapping what is snapped changes nothing.
    again = np.where(np.isin(np.arange(len(tokens)), list(kept)), np.float32(5.5), np.float32(0))
    rule = PatchRule(threshold_nats=1.0, snap_utf8=True)
    assert find_patch_lengths(tokens, again, rule).tolist() == snapped.tolist()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("aé", [1, 1, 2, 1]),
        ("東京", [1, 3, 3, 1]),
        ("😀a", [1, 4, 1, 1]),
        (b"\x80\xbfa\xc3", [1, 1, 1, 1, 1, 1]),  # stray and cut: left alone
        (b"\xe6\x9da", [1, 1, 1, 1, 1]),  # two bytes of three
        (b"\xc0\x80\xed\xa0\x80\xf5\x80\x80\x80", [1] * 11),  # no characters, by RFC 3629
    ],
)
def test_snapping_the_rule_byte_gives_characters(raw, expected):
    raw = raw if isinstance(raw, bytes) else raw.encode()
    rule = PatchRule(rule="byte", snap_utf8=True)
    assert find_patch_lengths(frame_tokens(raw), None, rule).tolist() == expected


def test_max_patch_length_comes_last_and_may_cut_characters():
    tokens = frame_tokens("東京".encode())
    lengths = find_patch_lengths(
        tokens, None, PatchRule(rule="byte", snap_utf8=True, max_patch_length=2)
    )
    assert lengths.tolist() == [1, 2, 1, 2, 1, 1]
    assert count_boundaries_inside_characters(tokens, np.array([len(tokens)]), lengths) == 2


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
