"""Documents out of rows: a text that is bytes, and named values beside it."""

from collections.abc import Mapping
from typing import Any

from blt.corpus.config import EncodeConfig
from blt.corpus.fields import get_field, id_text, meta_json
from blt.corpus.records import Record, Reject, made_id, make_document


def make_row_record(
    row: Mapping[str, Any], text: bytes, *, source: str, position: int, config: EncodeConfig
) -> Record:
    """Returns the document of a row, or the reject of its id.

    Args:
      row: values by name, of the id field and the kept fields at least; bytes are taken for UTF-8.
      text: the document.
      source: the input it is in.
      position: of the row in the input.
      config: names the fields.
    """
    doc_id = get_field(row, config.id_field)
    if isinstance(doc_id, bytes):
        try:
            doc_id = doc_id.decode("utf-8")
        except UnicodeDecodeError as error:
            return Reject(source, position, "invalid_id", f"the id is not UTF-8: {error}", text)
    id_string = id_text(doc_id)
    return make_document(
        made_id(source, position) if id_string is None else id_string,
        text,
        source=source,
        position=position,
        max_document_bytes=config.max_document_bytes,
        meta=meta_json(row, config.keep_fields),
    )
