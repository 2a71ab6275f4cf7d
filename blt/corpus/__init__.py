"""Raw corpora in, byte shards out, and back: the first arrow of the way of the data.

discover_inputs -> plan_corpus -> find_duplicates -> encode_unit for each unit
-> merge_sources; and back: decode_dataset
"""

from blt.corpus.admission.duplicates import find_duplicates
from blt.corpus.config import EncodeConfig
from blt.corpus.decode import decode_dataset
from blt.corpus.encode import encode_unit
from blt.corpus.files.discover import Discovery, InputFile, Skipped, discover_inputs
from blt.corpus.planning.plan import build_plan, payload_bytes, payload_notes
from blt.corpus.planning.preflight import check_inputs
from blt.corpus.planning.replan import plan_corpus
from blt.corpus.planning.sources import merge_sources
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
    "find_duplicates",
    "merge_sources",
    "payload_bytes",
    "payload_notes",
    "plan_corpus",
    "write_python_docs",
]
