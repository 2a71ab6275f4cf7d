"""The models, and their files; `keras.ops` alone, on every backend."""

from blt.model.blt import ByteLatentTransformer
from blt.model.config import create_blt_from_config
from blt.model.entropy_model import EntropyModel
from blt.model.loading import load_model

__all__ = ["ByteLatentTransformer", "EntropyModel", "create_blt_from_config", "load_model"]
