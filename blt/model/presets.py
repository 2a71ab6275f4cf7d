"""Models by name.

`tiny` is ours, for both models, made for a CPU and a minute of training: nearly all of its
parameters are n-gram embeddings, of which a byte needs five, so that it learns much from little
text and little work.

Of the entropy models, the others have the sizes and the window of the paper's ablation (arXiv
2412.09871, figure 8); the paper gives widths for none of them but the last, whose 14 layers of
width 768 are those of the published checkpoint.

The BLTs `micro` to `large` have about 15 M, 125 M, 350 M and 1.3 B parameters without entropy model
and n-gram tables; docs/model.md has the table.
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


def _variant(
    local_dim: int, global_dim: int, num_heads: int, num_global_layers: int, num_decoder_layers: int
) -> dict[str, Any]:
    ffn = {"type": "swiglu", "expansion": 3.5}
    return {
        "local_dim": local_dim,
        "global_dim": global_dim,
        "num_encoder_layers": 1,
        "num_global_layers": num_global_layers,
        "num_decoder_layers": num_decoder_layers,
        "global_attention_config": {"type": "group_query", "num_heads": num_heads},
        "local_ffn_config": ffn,
        "global_ffn_config": ffn,
    }


BLT_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "local_dim": 64,
        "global_dim": 128,
        "num_encoder_layers": 1,
        "num_global_layers": 2,
        "num_decoder_layers": 1,
        "local_attention_config": {"type": "sliding_window", "num_heads": 4, "window": 64},
        "global_attention_config": {"type": "multi_head", "num_heads": 4},
        "ngram_sizes": [2, 3, 4, 5, 6],
        "ngram_table_size": 16384,
    },
    "micro": _variant(256, 384, 6, 5, 3),
    "small": _variant(512, 768, 12, 13, 4),
    "base": _variant(768, 1024, 16, 20, 6),
    "large": _variant(1024, 1536, 24, 37, 7),
}
VARIANTS = ("micro", "small", "base", "large")


def create_entropy_model(preset: str, **changes: Any) -> EntropyModel:
    """Makes an untrained entropy model.

    Args:
      preset: a key of `ENTROPY_PRESETS`.
      **changes: arguments of `EntropyModel` that differ from the preset.

    Raises:
      UserError: there is no such preset.
    """
    check_preset(preset, ENTROPY_PRESETS)
    return EntropyModel(**{**ENTROPY_PRESETS[preset], **changes})


def check_preset(preset: str, presets: dict[str, dict[str, Any]]) -> None:
    """Raises UserError unless there is such a preset."""
    if preset not in presets:
        raise UserError(
            f"--preset {preset}: not one of {', '.join(presets)}." + near_names(preset, presets)
        )
