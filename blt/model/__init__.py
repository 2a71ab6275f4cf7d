"""The models, and their files; `keras.ops` alone, on every backend.

Once this is imported, `keras.models.load_model` reads the files that `blt` writes.
"""

from blt.model.blt import ByteLatentTransformer
from blt.model.config import create_blt_from_config
from blt.model.entropy_model import EntropyModel

__all__ = ["ByteLatentTransformer", "EntropyModel", "create_blt_from_config"]
