"""A hash table that is asked for many keys at once, each answered by two reads.

"Hash and displace": keys go to buckets of about four, and each bucket holds a number, its *seed*,
that sends all of its keys to slots which no other key has. So a key's slot is known after one read
of a small array, whether the key is there or not, and nothing has to be probed again. (Belazzougui,
Botelho, Dietzfelbinger, "Hash, Displace, and Compress", ESA 2009; the buckets here are placed
largest first, all of one size at a time.)

A slot holds 32 bits of the key's hash beside its values. A key that is not in the table is taken
for one that is with a probability of 2**-32.
"""

import dataclasses
import math

import numpy as np

RECORD_WORDS = 4  # 32-bit words in a slot: the check, and three float32 values
_LOAD = 0.85
_KEYS_PER_BUCKET = 4
_MAX_SEED = 1 << 16
_MAX_SALTS = 16

_FIRST = np.uint64(0x9E3779B97F4A7C15)
_SECOND = np.uint64(0xD6E8FEB86659FD93)
_OF_SEED = np.uint32(0x85EBCA6B)
_OF_SLOT = np.uint32(0xC2B2AE35)
_HALF = np.uint64(32)


@dataclasses.dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
      records: [num_slots, 4] uint32: the check, and the bits of three float32 values.
      seeds: [a power of two] uint16.
      salt: mixed into every key.
    """

    records: np.ndarray
    seeds: np.ndarray
    salt: int

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks keys up.

        Args:
          keys: [n] uint64.

        Returns:
          [n, 4] uint32, the records at the keys' places, and [n] bool, which of them are the keys'.
        """
        hashes = _mix(keys, self.salt)
        seeds = self.seeds.take((hashes >> self._bucket_shift).view(np.int64), mode="clip")
        slots = _slots(hashes, seeds, len(self.records))
        records = self.records.take(slots, axis=0, mode="clip")
        return records, records[:, 0] == _checks(hashes)

    @property
    def _bucket_shift(self) -> np.uint64:
        return np.uint64(64 - max(1, len(self.seeds).bit_length() - 1))


def max_table_bytes(num_keys: int) -> int:
    """Returns what a table of so many keys takes at most."""
    return 64 + math.ceil(num_keys * (4 * RECORD_WORDS / _LOAD + 1))


def _mix(keys: np.ndarray, salt: int) -> np.ndarray:
    """Spreads keys over 64 bits; different keys stay different."""
    mixed = keys ^ np.uint64(salt)
    mixed *= _FIRST
    mixed ^= mixed >> _HALF
    mixed *= _SECOND
    return mixed


def _checks(hashes: np.ndarray) -> np.ndarray:
    """[n] uint32, never 0: that is what empty slots hold."""
    return np.maximum((hashes >> _HALF).astype(np.uint32), np.uint32(1))


def _slots(hashes: np.ndarray, seeds: np.ndarray, num_slots: int) -> np.ndarray:
    """[n] int64 in [0, num_slots)."""
    low = hashes.astype(np.uint32)
    low ^= seeds.astype(np.uint32) * _OF_SEED
    low *= _OF_SLOT
    slots = low.astype(np.uint64)
    slots *= np.uint64(num_slots)
    slots >>= _HALF
    return slots.view(np.int64)


def build_table(keys: np.ndarray, values: np.ndarray) -> Table:
    """Makes the table of different keys.

    Args:
      keys: [n] uint64, each once.
      values: [n, 3] float32.
    """
    num_slots = max(1, math.ceil(len(keys) / _LOAD))
    bucket_bits = max(1, (max(1, len(keys)) // _KEYS_PER_BUCKET).bit_length())
    for salt in range(_MAX_SALTS):
        placed = _place(_mix(keys, salt), num_slots, bucket_bits)
        if placed is not None:
            slots, seeds = placed
            records = np.zeros((num_slots, RECORD_WORDS), np.uint32)
            records[slots, 0] = _checks(_mix(keys, salt))
            records[slots, 1:] = np.ascontiguousarray(values, np.float32).view(np.uint32)
            return Table(records, seeds, salt)
    raise AssertionError("no placement found")  # as likely as 16 collisions of 64 bits in a row


def _place(
    hashes: np.ndarray, num_slots: int, bucket_bits: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the slots of the keys and the seeds of the buckets; None if it fails."""
    buckets = (hashes >> np.uint64(64 - bucket_bits)).astype(np.int64)
    sizes = np.bincount(buckets, minlength=1 << bucket_bits)
    by_bucket = np.argsort(buckets, kind="stable")
    starts = np.cumsum(sizes) - sizes
    taken = np.zeros(num_slots, bool)
    seeds = np.zeros(1 << bucket_bits, np.uint16)
    slots = np.empty(len(hashes), np.int64)
    for size in range(int(sizes.max(initial=0)), 0, -1):
        open_buckets = np.flatnonzero(sizes == size)
        seed = 0
        while len(open_buckets):
            if seed == _MAX_SEED:
                return None
            members = by_bucket[starts[open_buckets][:, None] + np.arange(size)]
            tried = _slots(hashes[members].ravel(), np.full(1, seed), num_slots).reshape(-1, size)
            fits = _without_conflicts(tried, taken)
            taken[tried[fits]] = True
            slots[members[fits]] = tried[fits]
            seeds[open_buckets[fits]] = seed
            open_buckets = open_buckets[~fits]
            seed += 1
    return slots, seeds


def _without_conflicts(tried: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """[num_buckets] bool: whose slots are free, and no bucket's before them that were free too."""
    fits = ~taken[tried].any(axis=1)
    rows = np.flatnonzero(fits)
    wanted = tried[rows].ravel()
    # A slot goes to the first row that wants it; a row that wants one twice gets neither.
    order = np.argsort(wanted, kind="stable")
    is_first = np.empty(len(wanted), bool)
    in_order = wanted[order]
    is_first[order] = np.concatenate([[True], in_order[1:] != in_order[:-1]])[: len(wanted)]
    fits[rows] = is_first.reshape(len(rows), tried.shape[1]).all(axis=1)
    return fits
