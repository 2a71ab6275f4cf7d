"""Boundaries against those of the reference implementation, on its own entropies."""

import functools
import json

import numpy as np
import pytest

from blt.layers.patcher import Patcher
from blt.patching.rules import MAX_NATS, PatchRule, find_patch_lengths
from tests.shared import SHARED, needs_shared

VECTORS = SHARED / "vectors"
TIE = 1e-4  # nats; closer to the threshold than this, either side is right


@functools.cache
def load_vectors():
    return np.load(VECTORS / "entropy_meta_T.npz")


def rule_of(args):
    mode = args["patching_mode"]
    options = {"compat": "meta", "max_patch_length": args.get("max_patch_length")}
    if mode == "static":
        return PatchRule(rule="static", patch_size=args["patch_size"], **options)
    if mode != "entropy":
        return PatchRule(rule=mode, **options)
    threshold = min(args["threshold"], MAX_NATS)
    if args.get("monotonicity"):
        return PatchRule(rule="monotonic", threshold_nats=threshold, **options)
    if "threshold_add" in args:
        return PatchRule(
            rule="combined",
            threshold_nats=threshold,
            threshold_add_nats=args["threshold_add"],
            **options,
        )
    return PatchRule(threshold_nats=threshold, **options)


def comparable_cases():
    """All but batches, failures, and what we do not have: a tokenizer's, fixed numbers."""
    cases = json.loads((VECTORS / "patches_meta.json").read_text())["cases"]
    return [
        case
        for case in cases
        if "error" not in case
        and case["args"].get("patching_mode") in ("entropy", "static", "space", "byte")
        and len(case["docs"]) == 1
        and case["args"].get("patch_size", 1) in (1, 4)
        and (case.get("margin") is None or case["margin"] > TIE)
    ]


@needs_shared
@pytest.mark.parametrize("where", ["in the pipelines", "in the model"])
def test_boundaries_are_those_of_the_reference(where):
    cases = comparable_cases()
    assert len(cases) > 200
    for case in cases:
        vectors, doc = load_vectors(), case["docs"][0]
        tokens = vectors[f"tokens/{doc}"].astype("int32")
        entropies = vectors[f"entropy_win512/{doc}"]
        rule, beyond = rule_of(case["args"]), int(case["include_next_token"])
        if where == "in the pipelines":
            about = np.append(np.float32(0), entropies)[: len(tokens) + beyond]
            found = find_patch_lengths(np.append(tokens, 99)[: len(about)], about, rule)
        else:
            found = Patcher(rule)(entropies[None], tokens[None], include_next=bool(beyond))[0]
            found = np.asarray(found)
            found = found[found > 0]
        expected = [length for length in case["patch_lengths"][0] if length]
        assert found.tolist() == expected, (case["setting"], doc, beyond)
