"""Raw corpora in, byte shards out, and back: the first arrow of the way of the data.

discover_inputs -> build_plan -> check_inputs -> encode_unit for each payload -> decode_dataset
"""

from blt.corpus.config import EncodeConfig
from blt.corpus.decode import decode_dataset
from blt.corpus.discover import Discovery, InputFile, Skipped, discover_inputs
from blt.corpus.encode import encode_unit
from blt.corpus.plan import build_plan, payload_bytes, payload_notes
from blt.corpus.preflight import check_inputs
from blt.corpus.python_docs import write_python_docs

__all__ = [
    "Discovery",
    "EncodeConfig",
    "InputFile",
    "Skipped",
    "build_plan",
    "check_inputs",
    "decode_dataset",
    "discover_inputs",
    "encode_unit",
    "payload_bytes",
    "payload_notes",
    "write_python_docs",
]
