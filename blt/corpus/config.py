"""How a raw corpus becomes byte shards: everything that the result depends on but the input."""

import dataclasses
import re

from blt.corpus.format_rules import check_rules, format_of_rule
from blt.corpus.left_out import LeftOutRule
from blt.errors import UserError, near_names

FORMATS = ("auto", "text", "jsonl", "parquet", "arrow", "csv", "tsv", "warc", "tfrecord", "bytes")
DOC_PER = ("file", "line", "paragraph")
COMPRESSIONS = (None, "gzip")
UTF8 = ("keep", "reject", "replace")
NEWLINES = ("keep", "lf")
CSV_QUOTING = ("auto", "quotes", "none")
ON_DUPLICATE_ID = ("keep", "suffix", "reject")
ON_DAMAGED_FILE = ("keep", "drop", "fail")
MIB = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
# A part is one TFRecord of up to two bytes a byte, well below the limit on records.
MAX_PART_BYTES = 256 * MIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Options of `blt encode`, checked when made.

    Attributes:
      format: "auto" (by suffix, else by the first bytes), or one of `FORMATS`; "bytes" takes every
        file as one document, whatever it holds, and decompresses nothing.
      include_hidden: read files, and members of archives, whose names begin with "." or "_".
      include_leftovers: read leftovers, lists of checksums and bookkeeping (`blt.corpus.left_out`).
      format_of: "PATTERN=FORMAT" each: the format of inputs whose name is like a pattern, by the
        first of them that is (`blt.corpus.format_rules`).
      doc_per: in text files, a document per "file", per "line" (ended by LF alone) or per
        "paragraph" (blank lines between them).
      text_field: field or column of the text; dots lead into objects ("doc.text").
      id_field: field or column of the id; where it is null or absent an id is made.
      keep_fields: fields or columns that go along as `meta`.
      csv_quoting: of CSV and TSV: fields may be in "quotes", or "none" are and quotes are data;
        "auto" is quotes in CSV, none in TSV.
      csv_escape: a character that makes quotes (without quoting delimiters and line ends) and
        itself data, or None.
      csv_delimiter: between fields; None for a comma in CSV and a tab in TSV.
      max_document_bytes: longer documents are stored in parts of this size.
      max_decompression_ratio: how many times its size an input may grow to.
      target_shard_bytes: a unit of the plan reads, and a shard holds, about this many bytes.
      compression: of the shards: None or "gzip".
      utf8: of documents that are not UTF-8: "keep" the bytes, "reject" them, or "replace" what is
        wrong by U+FFFD.
      strip_bom: a byte order mark at the start of a text file, or of a field's text, is left out.
      newlines: "keep" them, or make "lf" of every CRLF.
      min_bytes, max_bytes: shorter and longer documents are filtered; None for no limit.
      sample: the share of documents to keep, chosen by a hash of the id; None for all.
      limit: only the first so many documents that pass the filters above; None for all.
      drop_duplicates: documents whose bytes an earlier document has are filtered.
      on_duplicate_id: of a document whose id an earlier one has: "keep" it, "suffix" the id, or
        "reject" the document.
      on_damaged_file: "keep" what came before the damage shows, "drop" the file, or "fail".

    Raises:
      UserError: a value is not one of these; names the flag.
    """

    format: str = "auto"
    include_hidden: bool = False
    include_leftovers: bool = False
    format_of: tuple[str, ...] = ()
    doc_per: str = "file"
    text_field: str = "text"
    id_field: str = "id"
    keep_fields: tuple[str, ...] = ()
    csv_quoting: str = "auto"
    csv_escape: str | None = None
    csv_delimiter: str | None = None
    max_document_bytes: int = 16 * MIB
    max_decompression_ratio: int = 1000
    target_shard_bytes: int = 64 * MIB
    compression: str | None = None
    utf8: str = "keep"
    strip_bom: bool = False
    newlines: str = "keep"
    min_bytes: int | None = None
    max_bytes: int | None = None
    sample: float | None = None
    limit: int | None = None
    drop_duplicates: bool = False
    on_duplicate_id: str = "keep"
    on_damaged_file: str = "keep"

    def __post_init__(self) -> None:
        _check_choice("format", self.format, FORMATS)
        object.__setattr__(self, "format_of", check_rules(self.format_of, FORMATS))
        _check_choice("doc-per", self.doc_per, DOC_PER)
        _check_choice("compression", self.compression, COMPRESSIONS)
        for flag, value in (("text-field", self.text_field), ("id-field", self.id_field)):
            if not isinstance(value, str) or not value:
                raise UserError(f"--{flag}: the name of a field expected, got {value!r}.")
        fields = self.keep_fields
        if not isinstance(fields, list | tuple) or not all(isinstance(f, str) for f in fields):
            raise UserError(f"--keep-fields: a list of field names expected, got {fields!r}.")
        for flag, name in (
            ("text-field", self.text_field),
            ("id-field", self.id_field),
            *(("keep-fields", name) for name in fields),
        ):
            if _SURROGATE.search(name):
                raise UserError(
                    f"--{flag} {name!a}: is not UTF-8, as names of fields are. Give the name "
                    "in a UTF-8 terminal, or in a config of blt run."
                )
        # YAML gives a list; a name that is given twice is one.
        object.__setattr__(self, "keep_fields", tuple(dict.fromkeys(fields)))
        _check_choice("csv-quoting", self.csv_quoting, CSV_QUOTING)
        self._check_csv()
        _check_size("max-document-bytes", self.max_document_bytes, MAX_PART_BYTES)
        _check_size("max-decompression-ratio", self.max_decompression_ratio, None, "a whole number")
        _check_size("target-shard-bytes", self.target_shard_bytes, None)
        self._check_policies()

    @property
    def left_out_rule(self) -> LeftOutRule:
        """Which names are no corpus."""
        return LeftOutRule(self.include_hidden, self.include_leftovers)

    @property
    def changes_bytes(self) -> bool:
        """Whether documents are changed by rules that depend on what they were cut from."""
        return self.strip_bom or self.newlines == "lf"

    def _check_csv(self) -> None:
        for flag, value in (
            ("csv-delimiter", self.csv_delimiter),
            ("csv-escape", self.csv_escape),
        ):
            is_usable = isinstance(value, str) and len(value) == 1 and "\0" < value < "\x7f"
            if value is not None and (not is_usable or value in '\n\r"'):
                raise UserError(
                    f"--{flag} {value!a}: one character of ASCII expected, no quote or line "
                    "end. (Doubled quotes need no --csv-escape.)"
                )
        if self.csv_escape is not None and self.csv_escape == self.csv_delimiter:
            raise UserError("--csv-escape: is the same as --csv-delimiter; give another one.")

    def _check_policies(self) -> None:
        formats = {"--format bytes": self.format}
        formats |= {f"--format-of {rule}": format_of_rule(rule) for rule in self.format_of}
        flag = next((flag for flag, name in formats.items() if name == "bytes"), None)
        if flag is not None and (self.changes_bytes or self.utf8 != "keep"):
            raise UserError(
                f"{flag}: keeps every byte, so that --strip-bom, --newlines lf and --utf8 "
                "do not go with it. Leave them out, or name the format of the files."
            )
        _check_choice("utf8", self.utf8, UTF8)
        _check_choice("newlines", self.newlines, NEWLINES)
        _check_choice("on-duplicate-id", self.on_duplicate_id, ON_DUPLICATE_ID)
        _check_choice("on-damaged-file", self.on_damaged_file, ON_DAMAGED_FILE)
        for flag in ("include_hidden", "include_leftovers", "strip_bom", "drop_duplicates"):
            if not isinstance(getattr(self, flag), bool):
                raise UserError(f"--{flag.replace('_', '-')}: true or false expected.")
        for flag, value in (("min-bytes", self.min_bytes), ("max-bytes", self.max_bytes)):
            if value is not None:
                _check_size(flag, value, None)
        if None not in (self.min_bytes, self.max_bytes) and self.min_bytes > self.max_bytes:
            raise UserError(
                f"--min-bytes {self.min_bytes}: above --max-bytes {self.max_bytes}; no document "
                "would pass."
            )
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise UserError(f"--limit {self.limit}: a number of documents of at least 1 expected.")
        sample = self.sample
        if sample is not None and (type(sample) not in (int, float) or not 0 < sample <= 1):
            raise UserError(f"--sample {sample}: a share above 0 and at most 1 expected.")


def _check_choice(flag: str, value: object, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        known = [str(choice).lower() for choice in choices]
        hint = near_names(str(value), known)
        raise UserError(f"--{flag} {value}: must be one of {', '.join(known)}.{hint}")


def _check_size(
    flag: str, value: object, limit: int | None, what: str = "a number of bytes"
) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"--{flag} {value}: {what} of at least 1 expected.")
    if limit is not None and value > limit:
        raise UserError(f"--{flag} {value}: must not be above {limit} ({limit // MIB} MiB).")
