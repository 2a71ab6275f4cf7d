"""Entropy models by name.

`tiny` is ours, made for a CPU and a minute of training: nearly all of its parameters are n-gram
embeddings, of which a byte needs five, so that it learns much from little text and little work.
The others have the sizes and the window of the paper's ablation (arXiv 2412.09871, figure 8); the
paper gives widths for none of them but the last, whose 14 layers of width 768 are those of the
published checkpoint.
"""

from typing import Any

from blt.errors import UserError, near_names
from blt.model.entropy_model import EntropyModel

ENTROPY_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64,
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 192,
        "window": 64,
        "ngram_sizes": [2, 3, 4, 5, 6],
        "ngram_table_size": 16384,
    },
    "1m": {"dim": 128, "num_layers": 4, "num_heads": 4, "hidden_dim": 512},
    "10m": {"dim": 384, "num_layers": 6, "num_heads": 6, "hidden_dim": 1024},
    "50m": {"dim": 512, "num_layers": 14, "num_heads": 8, "hidden_dim": 1536},
    "100m": {"dim": 768, "num_layers": 14, "num_heads": 12, "hidden_dim": 2048},
}
for _name in ("1m", "10m", "50m", "100m"):
    ENTROPY_PRESETS[_name] |= {"window": 512, "normalization_type": "rms_norm"}


def create_entropy_model(preset: str, **changes: Any) -> EntropyModel:
    """Makes an untrained entropy model.

    Args:
      preset: a key of `ENTROPY_PRESETS`.
      **changes: arguments of `EntropyModel` that differ from the preset.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in ENTROPY_PRESETS:
        raise UserError(
            f"--preset {preset}: not one of {', '.join(ENTROPY_PRESETS)}."
            + near_names(preset, ENTROPY_PRESETS)
        )
    return EntropyModel(**{**ENTROPY_PRESETS[preset], **changes})
