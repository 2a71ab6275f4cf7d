"""Which patch each token lies in, and which patch it may read.

Patches are consecutive stretches of a row. With documents a and b, patches of 1, 2, 1 and 2 tokens
and one place of padding:

    tokens          a0 a1 a2 b0 b1 b2  -
    patch of token   0  1  1  2  3  3  4     4: the slot of tokens outside all patches
    patch it reads   0  0  1  2  2  3  -

A token that ends its patch reads its own; any other reads the one before it, as long as that is of
its own document (Byte Latent Transformer, section 3.3). So no patch is read before it is complete.

Patches and tokens are addressed in one flat axis over all rows of a batch, so that gathering and
summing by patch cost as much as there are tokens, whatever the number of patches.
"""

from typing import Any

from keras import ops


class PatchLayout:
    """The patches of a batch of rows.

    Args:
      patch_lengths: [batch, num_patches] integers, tokens in each patch, 0 for no patch at the end
        of a row.
      segment_ids: [batch, num_tokens] integers: 0 padding, documents from 1.

    Attributes:
      num_patches: patches in a row, empty ones included.
      patch_segment_ids: [batch, num_patches] int32, the document of each patch, 0 for no patch.
      is_patch: [batch, num_patches] bool.
    """

    def __init__(self, patch_lengths: Any, segment_ids: Any) -> None:
        patch_lengths = ops.cast(patch_lengths, "int32")
        segment_ids = ops.cast(segment_ids, "int32")
        self.num_patches = patch_lengths.shape[1]
        self.num_tokens = segment_ids.shape[1]
        self._batch = ops.shape(segment_ids)[0]
        rows = ops.expand_dims(ops.arange(self._batch, dtype="int32"), 1)
        tokens = ops.arange(self.num_tokens, dtype="int32")

        ends = ops.cumsum(patch_lengths, axis=1)
        self.is_patch = patch_lengths > 0
        ended = ops.expand_dims(ends, 1) <= tokens[None, :, None]
        patch_ids = ops.sum(ops.cast(ended, "int32"), axis=2)
        self._patch_slots = ops.reshape(rows * (self.num_patches + 1) + patch_ids, (-1,))

        # The first token of a patch tells its document. Places without a patch look at token 0.
        starts = ops.where(self.is_patch, ends - patch_lengths, 0)
        starts = ops.minimum(starts, self.num_tokens - 1)
        flat_segments = ops.reshape(segment_ids, (-1,))
        of_start = ops.take(flat_segments, rows * self.num_tokens + starts, axis=0)
        self.patch_segment_ids = ops.where(self.is_patch, of_start, 0)

        # In the table that `read_patches` reads, slot 0 of a row is "nothing to read" and slot
        # p + 1 is patch p. A slot of patch p - 1 is thus p: that of the patch before.
        padded_ends = ops.pad(ends, [[0, 0], [0, 1]], constant_values=-1)
        end_of_own = ops.take(ops.reshape(padded_ends, (-1,)), self._patch_slots, axis=0)
        ends_own = ops.reshape(end_of_own, (self._batch, self.num_tokens)) == tokens + 1
        slots = patch_ids + ops.cast(ends_own, "int32")
        readable_segments = ops.pad(self.patch_segment_ids, [[0, 0], [1, 0]])
        flat = ops.reshape(rows * (self.num_patches + 1) + slots, (-1,))
        same = ops.take(ops.reshape(readable_segments, (-1,)), flat, axis=0) == flat_segments
        slots = ops.where(ops.reshape(same, (self._batch, self.num_tokens)), slots, 0)
        self._readable_slots = ops.reshape(rows * (self.num_patches + 1) + slots, (-1,))

    def max_by_patch(self, x: Any) -> Any:
        """Returns the elementwise maximum over each patch's tokens; 0 where there is no patch.

        x: [batch, num_tokens, dim]; the result: [batch, num_patches, dim].
        """
        num_slots = self._batch * (self.num_patches + 1)
        flat = ops.reshape(x, (-1, x.shape[-1]))
        largest = ops.segment_max(flat, self._patch_slots, num_segments=num_slots)
        largest = ops.reshape(largest, (self._batch, self.num_patches + 1, x.shape[-1]))
        return ops.where(self.is_patch[..., None], largest[:, :-1], 0.0)

    def softmax_by_patch(self, scores: Any, values: Any) -> Any:
        """Returns the mean of each patch's values, weighted by the softmax of their scores.

        Args:
          scores: [batch, num_tokens, *heads] float32; the softmax is over the tokens of a patch.
          values: [batch, num_tokens, *heads, dim].

        Returns:
          [batch, num_patches, *heads, dim]; 0 where there is no patch.
        """
        num_slots = self._batch * (self.num_patches + 1)
        heads = tuple(scores.shape[2:])
        slots = self._patch_slots
        scores = ops.reshape(scores, (-1, *heads))
        values = ops.reshape(values, (-1, *values.shape[2:]))
        largest = ops.segment_max(ops.stop_gradient(scores), slots, num_segments=num_slots)
        weights = ops.exp(scores - ops.take(largest, slots, axis=0))
        total = ops.segment_sum(weights, slots, num_segments=num_slots)
        weights = ops.cast(weights, values.dtype)
        summed = ops.segment_sum(weights[..., None] * values, slots, num_segments=num_slots)
        # A patch's largest weight is 1, so its total is 1 at least; empty slots have a total of 0.
        mean = summed / ops.cast(ops.maximum(total, 1.0), summed.dtype)[..., None]
        mean = ops.reshape(mean, (self._batch, self.num_patches + 1, *mean.shape[1:]))
        return mean[:, :-1]

    def own_patch(self, x: Any) -> Any:
        """Returns for each token the entry of the patch it lies in; 0 outside all patches.

        x: [batch, num_patches, ...]; the result: [batch, num_tokens, ...].
        """
        return self._take(x, [0, 1], self._patch_slots)

    def readable_patch(self, x: Any) -> Any:
        """Returns for each token the entry of the patch it may read; 0 where there is none.

        What padding reads means nothing.

        x: [batch, num_patches, ...]; the result: [batch, num_tokens, ...].
        """
        return self._take(x, [1, 0], self._readable_slots)

    def _take(self, x: Any, padding: list[int], slots: Any) -> Any:
        inner = tuple(x.shape[2:])
        table = ops.pad(x, [[0, 0], padding, *([0, 0] for _ in inner)])
        taken = ops.take(ops.reshape(table, (-1, *inner)), slots, axis=0)
        return ops.reshape(taken, (self._batch, self.num_tokens, *inner))
