"""Which patch each token lies in, and which patches it may read.

Patches are consecutive stretches of a row. With documents a and b, patches of 1, 2, 1 and 2 tokens
and one place of padding:

    tokens          a0 a1 a2 b0 b1 b2  -
    patch of token   0  1  1  2  3  3  4     4: the slot of tokens outside all patches
    patch it reads   0  0  1  2  2  3  -

A token that ends its patch reads its own; any other reads the one before it, as long as that is of
its own document (Byte Latent Transformer, section 3.3). So no patch is read before it is complete.
A patch that goes on after the row, by one token or more, is never complete in it.

How patches gather from their tokens, and tokens from patches, is `blt/layers/slots.py`.
"""

from typing import Any

from keras import ops

from blt.layers.slots import max_by_slot, sum_by_slot, take_by_slot


class PatchLayout:
    """The patches of a batch of rows.

    Args:
      patch_lengths: [batch, num_patches] integers, tokens in each patch, 0 for no patch.
      segment_ids: [batch, num_tokens] integers: 0 padding, documents from 1.
      closes: [batch, num_tokens] bool, whether a token ends its patch; None where the lengths
        say it.
      across_documents: let tokens read patches of other documents before theirs, and patches see
        tokens of them, as the reference implementations do.

    Attributes:
      num_patches: patches in a row, empty ones included.
      patch_segment_ids: [batch, num_patches] int32, the document of each patch, 0 for no patch.
      is_patch: [batch, num_patches] bool.
    """

    def __init__(
        self,
        patch_lengths: Any,
        segment_ids: Any,
        *,
        closes: Any = None,
        across_documents: bool = False,
    ) -> None:
        patch_lengths = ops.cast(patch_lengths, "int32")
        segment_ids = ops.cast(segment_ids, "int32")
        self.num_patches = patch_lengths.shape[1]
        self.num_tokens = segment_ids.shape[1]
        tokens = ops.arange(self.num_tokens, dtype="int32")

        ends = ops.cumsum(patch_lengths, axis=1)
        starts = ends - patch_lengths
        self.is_patch = ops.logical_and(patch_lengths > 0, starts < self.num_tokens)
        ended = ops.expand_dims(ends, 1) <= tokens[None, :, None]
        self._patch_ids = ops.sum(ops.cast(ended, "int32"), axis=2)

        # The first token of a patch tells its document. Places without a patch look at token 0.
        starts = ops.where(self.is_patch, starts, 0)
        self._segment_ids = segment_ids
        of_start = ops.take_along_axis(segment_ids, starts, axis=1)
        self.patch_segment_ids = ops.where(self.is_patch, of_start, 0)

        # In the table that tokens read, slot 0 of a row is "nothing to read" and slot p + 1 is
        # patch p. The slot of patch p - 1 is thus p: that of the patch before.
        if closes is None:
            padded_ends = ops.pad(ends, [[0, 0], [0, 1]], constant_values=-1)
            closes = ops.take_along_axis(padded_ends, self._patch_ids, axis=1) == tokens + 1
        self._readable = self._patch_ids + ops.cast(closes, "int32")
        self._across_documents = across_documents

    def patch_slots(self, shift: int = 0) -> Any:
        """Returns the slot of the patch `shift` places after each token's own.

        A patch of another document counts as none; the last slot of a row stands for that.

        Returns:
          [batch, num_tokens] int32, below num_patches + 1.
        """
        slots = self._patch_ids
        if shift:
            slots = ops.minimum(slots + shift, self.num_patches)
            segments = ops.pad(self.patch_segment_ids, [[0, 0], [0, 1]])
            slots = self._of_own_document(slots, segments, nothing=self.num_patches)
        return slots

    def _of_own_document(self, slots: Any, slot_segments: Any, *, nothing: int) -> Any:
        """Replaces slots [batch, num_tokens] of patches that are not of the token's document."""
        found = ops.take_along_axis(slot_segments, slots, axis=1)
        same = found > 0 if self._across_documents else found == self._segment_ids
        return ops.where(same, slots, nothing)

    def reduce_by_patch(self, x: Any, how: str) -> Any:
        """Returns the elementwise maximum, minimum or mean over each patch's tokens.

        Args:
          x: [batch, num_tokens, dim].
          how: "max", "min" or "avg".

        Returns:
          [batch, num_patches, dim]; 0 where there is no patch.
        """
        slots, num_slots = self._patch_ids, self.num_patches + 1
        if how == "avg":
            reduced = sum_by_slot(x, slots, num_slots)
            count = sum_by_slot(ops.ones_like(x[..., :1]), slots, num_slots)
            reduced = reduced / ops.maximum(count, 1.0)
        elif how == "min":
            reduced = -max_by_slot(-x, slots, num_slots)
        else:
            reduced = max_by_slot(x, slots, num_slots)
        return ops.where(self.is_patch[..., None], reduced[:, :-1], 0.0)

    def softmax_by_patch(self, scores: Any, values: Any, slots: Any) -> Any:
        """Returns the mean of the values in each slot, weighted by the softmax of their scores.

        Args:
          scores: [batch, places, *heads] float32; the softmax is over the places of a slot.
          values: [batch, places, *heads, dim].
          slots: [batch, places] int32, from `patch_slots`; several of these, one after the other,
            for places that stand several times.

        Returns:
          [batch, num_patches, *heads, dim]; 0 where there is no patch.
        """
        scores, values = ops.convert_to_tensor(scores), ops.convert_to_tensor(values)
        num_slots = self.num_patches + 1
        once = slots.shape[1] == self.num_tokens
        largest = max_by_slot(ops.stop_gradient(scores), slots, num_slots, contiguous=once)
        weights = ops.exp(scores - take_by_slot(largest, slots))
        total = sum_by_slot(weights, slots, num_slots)
        weights = ops.cast(weights, values.dtype)
        summed = sum_by_slot(weights[..., None] * values, slots, num_slots)
        # A patch's largest weight is 1, so its total is 1 at least; empty slots have a total of 0.
        mean = summed / ops.cast(ops.maximum(total, 1.0), summed.dtype)[..., None]
        return mean[:, :-1]

    def take_by_patch(self, x: Any, slots: Any) -> Any:
        """Returns the entries of patches x [batch, num_patches, ...] in slots [batch, places].

        [batch, places, ...]; 0 outside all patches.
        """
        return take_by_slot(_pad_slots(x, [0, 1]), slots)

    def readable_patches(self, x: Any, window: int = 1) -> tuple[Any, Any]:
        """Returns the entries of the last patches that each token may read.

        Args:
          x: [batch, num_patches, ...].
          window: patches; the latest complete one, and window - 1 before it.

        Returns:
          [batch, num_tokens, window, ...], latest first, 0 where there is none; and
          [batch, num_tokens, window] bool, where there is one. What padding reads means nothing.
        """
        segments = ops.pad(self.patch_segment_ids, [[0, 0], [1, 0]])
        found, exists = [], []
        for shift in range(window):
            slots = ops.maximum(self._readable - shift, 0)
            slots = self._of_own_document(slots, segments, nothing=0)
            exists.append(slots > 0)
            found.append(take_by_slot(_pad_slots(x, [1, 0]), slots))
        return ops.stack(found, axis=2), ops.stack(exists, axis=2)


def _pad_slots(x: Any, padding: list[int]) -> Any:
    """Adds entries of zeros before and after x [batch, num_patches, ...]."""
    return ops.pad(x, [[0, 0], padding, *([0, 0] for _ in x.shape[2:])])


class LastPatches:
    """Stands in for a `PatchLayout` where rows are one token that reads given patches.

    Args:
      exists: [batch, window] bool: which of the given patches there are.
    """

    def __init__(self, exists: Any) -> None:
        self._exists = exists
        self.num_patches = exists.shape[1]

    def readable_patches(self, x: Any, window: int = 1) -> tuple[Any, Any]:
        """x [batch, window, ...], latest first -> [batch, 1, window, ...], [batch, 1, window]."""
        exists = ops.reshape(self._exists, (-1, window, *[1] * (len(x.shape) - 2)))
        return ops.expand_dims(ops.where(exists, x, 0), 1), ops.expand_dims(self._exists, 1)
