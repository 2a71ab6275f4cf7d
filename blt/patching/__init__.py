"""Patches: the rules that find their boundaries, thresholds for them, and shards of boundaries."""

from blt.patching.rules import (
    RULES,
    PatchRule,
    count_byte_patches,
    find_patch_lengths,
    find_patches,
)

__all__ = ["RULES", "PatchRule", "count_byte_patches", "find_patch_lengths", "find_patches"]
