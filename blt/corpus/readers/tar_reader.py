"""Tar archives: every regular member is read as a file of its own, called `archive.tar/member`.

A member is copied to a temporary file and read from there. Its name is a label and nothing else:
it is not opened. Its format and compression are told by name and content, as those of a file are.
Members that are links, devices or sparse, and those that are left out by their names as files are,
are filtered; an archive in an archive is a reject. After a damaged head of a member the next head
is looked for, and what lies between is a reject. Archives one after the other are read as one. An
archive that has no end mark, or something else after it, is damaged.
"""

import contextlib
import copy
import dataclasses
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from blt.corpus.config import EncodeConfig
from blt.corpus.entry import Entry
from blt.corpus.files.blocks import BlockFile, entry_blocks
from blt.corpus.files.decompress import DamagedInputError
from blt.corpus.files.detect import detect, format_by_name
from blt.corpus.format_rules import format_of_rule, rule_for
from blt.corpus.records import Filtered, Record, Reject
from blt.dataset.units import Progress
from blt.errors import WorkError

_MAX_HEADER_BYTES = 1 << 20  # of a long name, or of extended headers
_COPY_BYTES = 1 << 20
_END_BLOCKS = 2  # of zeros, at the end of an archive
_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError, ArithmeticError)

ReadMember = Callable[[Entry], Iterator[Record]]


def read_tar(
    entry: Entry, config: EncodeConfig, progress: Progress, read_member: ReadMember
) -> Iterator[Record]:
    """Yields the records of all members.

    Args:
      entry: the archive.
      config: how to read the members.
      progress: for the archive's bytes.
      read_member: yields the records of an entry whose path is a member's copy; `is_told` in it
        tells whether its name alone does not say its format, `format_rule` is what it is meant by.
    """
    file = BlockFile(entry_blocks(entry, config, progress))
    names: dict[str, int] = {}
    left_out = config.left_out_rule
    with contextlib.ExitStack() as resources:
        copy = resources.enter_context(tempfile.NamedTemporaryFile(prefix="blt-member-"))
        for member, content in _members(file):
            if isinstance(member, _Gap):
                yield _reject_gap(member, entry["source"])
                continue
            name = _readable(member.name)
            source = _source(entry["source"], name, names)
            if content is None:
                yield Filtered(source, 0, "unread_member")
                continue
            if left_out.reason_of_path(member.name):
                yield Filtered(source, 0, "left_out_member")
                continue
            start = _copy(content, member.size, copy)
            num_bytes = member.size
            format_rule = rule_for(config.format_of, entry["source"], name)
            wanted = config.format if format_rule is None else format_of_rule(format_rule)
            detected = detect(
                copy.name, wanted, text_field=config.text_field, name=name, start=start
            )
            if detected.format == "tar":
                detail = "an archive inside an archive is not opened"
                yield Reject(
                    source, None, "nested_archive", detail, ends_input=True, num_bytes=num_bytes
                )
                continue
            yield from read_member(
                {
                    "path": copy.name,
                    "archive": entry["path"],
                    "source": source,
                    "size": num_bytes,
                    "num_bytes": num_bytes,
                    "format": detected.format,
                    "compression": detected.compression,
                    "is_told": detected.note is not None
                    or detected.format != format_by_name(name, wanted),
                    "lacks_text": detected.lacks_text,
                    "format_rule": format_rule,
                }
            )


def _readable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _source(archive: str, name: str, names: dict[str, int]) -> str:
    """Names a member; of members of one name, which archives may hold, each gets its own."""
    called, number = name, names.get(name, 1)
    while called in names:  # others may be called as this one would be by its number
        number += 1
        called = f"~{number}/{name}"
    names[name] = number
    names.setdefault(called, 1)
    return f"{archive}/{called}"


@dataclasses.dataclass(frozen=True)
class _Gap:
    """Bytes of an archive in which no head of a member could be found."""

    position: int
    num_bytes: int
    detail: str


def _reject_gap(gap: _Gap, source: str) -> Reject:
    detail = f"{gap.detail}; {gap.num_bytes} bytes passed over"
    return Reject(source, gap.position, "bad_record", detail, num_bytes=gap.num_bytes)


def _members(file: BlockFile) -> Iterator[tuple[tarfile.TarInfo | _Gap, IO[bytes] | None]]:
    """Yields each member but folders, with its content if that is to be read, and each gap."""
    gaps: list[_Gap] = []
    reader = type("_Member", (_Member,), {"gaps": gaps})
    try:
        with tarfile.open(fileobj=file, mode="r|", tarinfo=reader) as tar:
            while True:
                member = tar.next()
                yield from ((gap, None) for gap in gaps)
                gaps.clear()
                if member is None:
                    break
                tar.members.clear()  # it would keep them all
                if member.isdir():
                    continue
                is_file = member.isreg() and not member.issparse()
                yield member, tar.extractfile(member) if is_file else None
    except _ERRORS as error:
        raise DamagedInputError(f"not a whole tar archive ({error})") from error


class _Member(tarfile.TarInfo):
    """A member after a damaged head too, which tarfile takes for the end.

    Attributes:
      gaps: where it notes what was passed over; of one archive.
    """

    gaps: list[_Gap]

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError as end:
            return cls._find_after_zeros(tar, end)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:
            raise DamagedInputError("has no end mark: the archive was cut short") from error
        except tarfile.HeaderError as error:
            return cls._find_next(tar, error)

    @classmethod
    def _find_after_zeros(
        cls, tar: tarfile.TarFile, end: tarfile.EOFHeaderError
    ) -> tarfile.TarInfo:
        """Returns the member after a block of zeros: of another archive, or after a damaged head.

        Raises:
          EOFHeaderError: there is none; the archive ends as it should.
          DamagedInputError: there is none, but other bytes are.
        """
        start = tar.fileobj.tell() - tarfile.BLOCKSIZE
        num_zero_blocks, has_other = 1, False
        while block := tar.fileobj.read(tarfile.BLOCKSIZE):
            if not block.strip(b"\0"):
                num_zero_blocks += not has_other
                continue
            try:
                member = cls.frombuf(block, tar.encoding, tar.errors)
            except tarfile.HeaderError:
                has_other = True
                continue
            member.offset = tar.fileobj.tell() - tarfile.BLOCKSIZE
            num_bytes = member.offset - start
            if has_other or num_zero_blocks < _END_BLOCKS:
                cls.gaps.append(_Gap(start, num_bytes, "a member's head is zeros"))
            return cls._as_found(member._proc_member(tar), tar)
        if has_other:
            raise DamagedInputError(
                "has bytes after the end of the archive", num_bytes=tar.fileobj.tell() - start
            )
        raise end

    @staticmethod
    def _as_found(member: tarfile.TarInfo, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """Notes what a member after a gap is.

        Extended heads before it, whose own member was lost, would be applied to it.
        """
        found = copy.copy(member)
        found.as_found = member.as_found = found, tar.offset
        return member

    @classmethod
    def _find_next(cls, tar: tarfile.TarFile, error: tarfile.HeaderError) -> tarfile.TarInfo:
        """Returns the next member after a damaged head, and notes the gap.

        Raises:
          EOFHeaderError: there is none; the archive ends as it should.
          DamagedInputError: there is none, and the archive ends inside what was passed over.
        """
        start = tar.fileobj.tell() - tarfile.BLOCKSIZE
        num_zero_blocks = 0
        while True:
            try:
                member = super().fromtarfile(tar)
            except tarfile.EOFHeaderError:
                num_zero_blocks += 1
                continue
            except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as end:
                num_bytes = tar.fileobj.tell() - start
                if start == 0 or num_zero_blocks < _END_BLOCKS:
                    raise DamagedInputError(
                        f"a member's head is damaged ({error}), and no other follows",
                        num_bytes=num_bytes,
                    ) from end
                cls.gaps.append(_Gap(start, num_bytes, f"a member's head is damaged ({error})"))
                raise tarfile.EOFHeaderError("end of file header") from end
            except tarfile.HeaderError:
                num_zero_blocks = 0
                continue
            num_bytes = member.offset - start
            cls.gaps.append(_Gap(start, num_bytes, f"a member's head is damaged ({error})"))
            return cls._as_found(member, tar)

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        is_long = self.type in (*extended, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.size < 0 or (is_long and self.size > _MAX_HEADER_BYTES):
            raise DamagedInputError(f"a member's head declares {self.size} bytes")
        num_gaps = len(self.gaps)
        member = super()._proc_member(tar)
        if len(self.gaps) > num_gaps:
            found, tar.offset = member.as_found
            member = copy.copy(found)
        return member


def _copy(content: IO[bytes], size: int, copy: IO[bytes]) -> bytes:
    """Copies a member; returns its first block."""
    left, start = size, b""
    try:
        copy.seek(0)
        copy.truncate()
        while left and (block := content.read(min(left, _COPY_BYTES))):
            start = start or block
            copy.write(block)
            left -= len(block)
        copy.flush()
    except tarfile.ReadError:
        pass  # the end came too soon
    except OSError as error:
        reason = error.strerror or error
        raise WorkError(
            f"{copy.name}: a member of {size} bytes cannot be copied there ({reason}). Make room, "
            "or name another folder in TMPDIR."
        ) from error
    if left:
        raise DamagedInputError("ends inside a member: the archive was cut short")
    return start
