"""Documents out of rows: a text that is bytes, and named values beside it."""

from collections.abc import Mapping
from typing import Any

from blt.corpus.config import EncodeConfig
from blt.corpus.fields import read_fields
from blt.corpus.plain import CHANGED_ID
from blt.corpus.records import Record, Reject, made_id, make_document


def make_row_record(
    row: Mapping[str, Any],
    text: bytes,
    *,
    source: str,
    position: int,
    config: EncodeConfig,
    partitions: Mapping[str, Any],
) -> Record:
    """Returns the document of a row, or the reject of its id.

    Args:
      row: values by name, of the id field and the kept fields at least; bytes are taken for UTF-8.
      text: the document.
      source: the input it is in.
      position: of the row in the input.
      config: names the fields.
      partitions: fields of all rows of the input, where the row has none of the name.
    """
    if partitions:
        row = {**partitions, **row}
    try:
        fields = read_fields(row, config)
    except UnicodeDecodeError as error:
        if config.utf8 != "replace":
            return Reject(source, position, "invalid_id", f"the id is not UTF-8: {error}", text)
        doc_id = error.object.decode("utf-8", "replace")
        fields = read_fields({**row, config.id_field: doc_id}, config)
        fields = fields._replace(changed=(*fields.changed, CHANGED_ID))
    return make_document(
        made_id(source, position) if fields.doc_id is None else fields.doc_id,
        text,
        source=source,
        position=position,
        max_document_bytes=config.max_document_bytes,
        fields=fields,
    )
