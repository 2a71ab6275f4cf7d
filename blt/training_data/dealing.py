"""Dealing: the global shuffle of `pack`, through files in the output folder and in bounded memory.

Shards are dealt in groups, each by one worker. What a group holds of all buckets is one file, and
what a bucket holds of it is one range of that file; a bucket is packed from its ranges of all
groups.

    _dealt/<digest>/00012.documents

        magic           8 bytes
        offsets         [num_buckets + 1] uint64: where in the file each bucket begins, and the end
        documents       of bucket 0, of bucket 1, … Of each:

            key         uint64, as `shuffle_key`       where it comes in its bucket
            shard       uint32                         the number of its byte shard
            index       uint32                         of its first record there
            id size, number of patches    uint32
            size of a patch length        uint32      1, 2 or 4 bytes
            CRC-32 of what follows        uint32
            number of bytes               uint64
            id (UTF-8), bytes, patch lengths (little endian)

The digest is of what was dealt and how (`Dealing.folder`), and a file is published whole or not at
all: one that is there need not be made again.
"""

import dataclasses
import errno
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from blt.dataset.joining import PatchedDocument, join_documents, read_patched_parts
from blt.dataset.several import NumberedShard
from blt.dataset.storage import (
    Place,
    atomic_path,
    delete_all,
    list_below,
    local_folder,
    read_range,
    scratch_file,
    sha256_json,
)
from blt.dataset.storage.reading import NUM_REQUESTS
from blt.dataset.units import Progress, no_progress
from blt.errors import WorkError
from blt.tokenizer import frame_tokens, tokens_to_bytes
from blt.training_data.packing import bucket_of, shuffle_key

DEALT_FOLDER = "_dealt"
_MAGIC = b"bltdeal1"
_HEAD = struct.Struct("<QIIIIIIQ")
_RUN_BYTES = 64 << 20  # of documents that a worker holds while it deals
_COPY_BYTES = 1 << 20
_NUM_GROUPS = 1000  # about as many at most, so that a bucket is not read from too many files

Pair = tuple[NumberedShard, NumberedShard]  # a byte shard and its boundaries


@dataclasses.dataclass(frozen=True, slots=True)
class Dealing:
    """How documents are dealt.

    Attributes:
      num_buckets: into how many.
      num_groups: of shards, as `make_groups` made them.
      seed: of the order.
      data, patches: the folders of the datasets of byte shards, and of boundaries.
      parents: sha256 of their manifests, by kind.
    """

    num_buckets: int
    num_groups: int
    seed: int
    data: tuple[Place, ...]
    patches: tuple[Place, ...]
    parents: Mapping[str, str]

    def folder(self, output: Place) -> Place:
        """Returns the folder of the files, in the output folder of the run."""
        made_from = [_MAGIC.decode(), self.parents, self.num_buckets, self.num_groups, self.seed]
        return output / DEALT_FOLDER / sha256_json(made_from)[:16]

    def file(self, output: Place, group: int) -> Place:
        """Returns the file of a group."""
        return self.folder(output) / f"{group:05d}.documents"

    def files(self, output: Place) -> list[Place]:
        """Returns the files of all groups."""
        return [self.file(output, group) for group in range(self.num_groups)]

    def groups_there(self, output: Place) -> set[int]:
        """Returns the groups whose files are there."""
        there = {file.path for file in list_below(self.folder(output))}
        return {group for group, file in enumerate(self.files(output)) if str(file) in there}


def make_groups(pairs: Sequence[Pair], num_buckets: int) -> list[list[int]]:
    """Returns the numbers of the shards of each group: as many groups as there are buckets at most.

    Args:
      pairs: of all shards.
      num_buckets: buckets.
    """
    total = sum(shard.info.bytes for shard, _ in pairs)
    least = max(1, total // min(num_buckets, _NUM_GROUPS))
    groups: list[list[int]] = []
    size = least
    for number, (shard, _) in enumerate(pairs):
        if size >= least and len(groups) < num_buckets:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += shard.info.bytes
    return groups


def deal_group(
    pairs: Sequence[Pair],
    first_shard: int,
    place: Place,
    dealing: Dealing,
    progress: Progress = no_progress,
) -> None:
    """Deals the documents of a group of shards into buckets.

    It holds some documents at a time and needs scratch as large as the file.

    Args:
      pairs: the shards of the group, which follow one another.
      first_shard: the number of the first among all shards.
      place: of the file to make.
      dealing: how.
      progress: is told of the documents' bytes.

    Raises:
      WorkError: a shard is damaged, row i does not describe record i, or scratch has no room.
      UserError: a shard is not the one that its manifest names.
    """
    with scratch_file("runs") as scratch, open(scratch, "w+b") as file:
        runs = _Runs(file, dealing.num_buckets)
        for number, (shard, boundaries) in enumerate(pairs, first_shard):
            with (
                shard.fetched(dealing.data) as shard_path,
                boundaries.fetched(dealing.patches) as boundaries_path,
            ):
                for document in join_documents(read_patched_parts(shard_path, boundaries_path)):
                    key = shuffle_key(dealing.seed, shard.name, document.index)
                    num_bytes = runs.add(bucket_of(key, dealing.num_buckets), key, number, document)
                    progress(num_bytes)
        runs.end_run()
        with atomic_path(place, is_appended=True) as path, open(path, "wb") as output:
            runs.write(output)


class _Runs:
    """Documents by bucket: those of a run in memory, those of earlier runs in a file."""

    def __init__(self, file: BinaryIO, num_buckets: int) -> None:
        self._file = file
        self._runs: list[np.ndarray] = []  # of each: where its buckets begin in the file, and end
        self._held: dict[int, list[bytes]] = {}
        self._num_held = 0
        self._num_buckets = num_buckets

    def add(self, bucket: int, key: int, shard: int, document: PatchedDocument) -> int:
        """Adds a document; returns its bytes."""
        doc_id, raw = document.doc_id.encode("utf-8"), tokens_to_bytes(document.tokens)
        lengths = document.patch_lengths.astype("<u4")
        largest = int(lengths.max(initial=0))
        size = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
        body = b"".join((doc_id, raw, lengths.astype(f"<u{size}").tobytes()))
        sizes = len(doc_id), len(lengths), size, zlib.crc32(body), len(raw)
        packed = _HEAD.pack(key, shard, document.index, *sizes) + body
        self._held.setdefault(bucket, []).append(packed)
        self._num_held += len(packed)
        if self._num_held >= _RUN_BYTES:
            self.end_run()
        return len(raw)

    def end_run(self) -> None:
        """Writes what is held to the file."""
        sizes = np.zeros(self._num_buckets + 1, np.uint64)
        sizes[0] = self._file.seek(0, os.SEEK_END)
        try:
            for bucket in sorted(self._held):
                self._file.writelines(self._held[bucket])
                sizes[bucket + 1] = sum(map(len, self._held[bucket]))
            self._file.flush()
        except OSError as error:
            raise WorkError(
                f"{self._file.name}: documents cannot be kept there while they are dealt "
                f"({error.strerror or error}). Make room, or name another folder in TMPDIR."
            ) from error
        self._runs.append(np.cumsum(sizes, dtype=np.uint64))
        self._held, self._num_held = {}, 0

    def write(self, output: BinaryIO) -> None:
        """Writes the file of the group: of each bucket, what all runs hold of it."""
        first = len(_MAGIC) + 8 * (self._num_buckets + 1)
        offsets = sum((run - run[0] for run in self._runs), start=np.uint64(first))
        output.write(_MAGIC + offsets.astype("<u8").tobytes())
        for bucket in range(self._num_buckets):
            for run in self._runs:
                self._copy(int(run[bucket]), int(run[bucket + 1]), output)

    def _copy(self, start: int, end: int, output: BinaryIO) -> None:
        self._file.seek(start)
        while start < end:
            data = self._file.read(min(_COPY_BYTES, end - start))
            output.write(data)
            start += len(data)


class Bucket(Sequence[PatchedDocument]):
    """The documents of a bucket, in their order; each is unpacked when it is asked for.

    Args:
      files: of all groups.
      bucket: its number.

    Raises:
      FileNotFoundError: a file is not there (any more).
      WorkError: one is damaged.
    """

    def __init__(self, files: Sequence[Place], bucket: int) -> None:
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:  # a request takes longer than its bytes
            self._parts = list(pool.map(lambda file: _read_part(file, bucket), files))
        self._files = files
        found = []
        for number, (place, data) in enumerate(zip(files, self._parts, strict=True)):
            for start, head in _heads(place, data):
                found.append((*head[:3], number, start))
        self._order = [(number, start) for *_, number, start in sorted(found)]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> PatchedDocument:  # type: ignore[override]
        number, start = self._order[position]
        data = self._parts[number]
        _, _, index, id_size, num_patches, size, crc, num_bytes = _HEAD.unpack_from(data, start)
        start += _HEAD.size
        body = memoryview(data)[start : start + id_size + num_bytes + num_patches * size]
        if zlib.crc32(body) != crc:
            raise _damaged(self._files[number])
        doc_id = data[start : start + id_size].decode("utf-8")
        start += id_size
        raw = data[start : start + num_bytes]
        lengths = np.frombuffer(data, f"<u{size}", num_patches, start + num_bytes)
        return PatchedDocument(
            index=index,
            doc_id=doc_id,
            tokens=frame_tokens(raw),
            patch_lengths=lengths.astype(np.int32),
        )


def _read_part(place: Place, bucket: int) -> bytes:
    """Returns what a file holds of a bucket."""
    try:
        offsets = read_range(place, len(_MAGIC) + 8 * bucket, 16)
        start, end = map(int, np.frombuffer(offsets, "<u8"))
        return read_range(place, start, end - start) if start < end else b""
    except OSError as error:
        if error.errno != errno.EIO:  # not even that it ends too early
            raise
        raise _damaged(place) from error


def _heads(place: Place, data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields where each document begins, and its head."""
    start = 0
    while start < len(data):
        try:
            head = _HEAD.unpack_from(data, start)
        except struct.error as error:
            raise _damaged(place) from error
        yield start, head
        _, _, _, id_size, num_patches, size, _, num_bytes = head
        start += _HEAD.size + id_size + num_bytes + num_patches * size
    if start != len(data):
        raise _damaged(place)


def _damaged(place: Place) -> WorkError:
    return WorkError(
        f"{place}: is damaged. Remove it and run the same command again, which makes it anew."
    )


def remove_dealt(output: Place) -> None:
    """Removes the files of all groups."""
    delete_all(file.path for file in list_below(output / DEALT_FOLDER))
    if (folder := local_folder(output / DEALT_FOLDER)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
