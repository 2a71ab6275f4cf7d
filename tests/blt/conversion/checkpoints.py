"""Small random checkpoints in both formats, for tests."""

import json

import numpy as np
from safetensors.numpy import save_file

META_CONFIG = {
    "dim_global": 20,
    "dim_local_encoder": 12,
    "dim_local_decoder": 12,
    "n_layers_global": 2,
    "n_layers_local_encoder": 2,
    "n_layers_local_decoder": 2,
    "n_heads_global": 2,
    "n_kv_heads_global": None,
    "n_heads_local_encoder": 2,
    "n_heads_local_decoder": 2,
    "cross_attn_encoder": True,
    "cross_attn_decoder": True,
    "cross_attn_k": 2,
    "cross_attn_nheads": 2,
    "cross_attn_all_layers_encoder": False,
    "cross_attn_all_layers_decoder": True,
    "cross_attn_init_by_pooling": True,
    "downsampling_by_pooling": "max",
    "encoder_hash_byte_group_size": [3, 5],
    "encoder_hash_byte_group_vocab": 31,
    "encoder_hash_byte_group_nb_functions": 1,
    "local_attention_window_len": 6,
    "max_seqlen": 64,
    "max_encoder_seq_length": 128,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
ENTROPY_CONFIG = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "sliding_window": 8,
    "max_seqlen": 64,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
VOCAB_SIZE = 260
HIDDEN_DIM = 24


def random_blt(projections=(), **changes):
    """Returns a config and weights of a BLT, by the names of the paper's authors.

    It has the projections of patches that its widths need, and those that are named: "global",
    "decoder".
    """
    config = {**META_CONFIG, **changes}
    dim, wide, k = config["dim_local_encoder"], config["dim_global"], config["cross_attn_k"]
    has_cross = config["cross_attn_encoder"]
    patch_width = k * dim if has_cross else dim
    kv_heads = config["n_kv_heads_global"] or config["n_heads_global"]
    kv_width = wide // config["n_heads_global"] * kv_heads
    shapes = {"local_encoder.tok_embeddings": (VOCAB_SIZE, dim)}
    num_tables = config["encoder_hash_byte_group_nb_functions"]
    num_tables *= len(config["encoder_hash_byte_group_size"])
    for n in range(num_tables):
        shapes[f"encoder_hash_tok_embedding.{n}"] = (config["encoder_hash_byte_group_vocab"], dim)
    for part, width, kv in (
        ("local_encoder", dim, dim),
        ("global_transformer", wide, kv_width),
        ("local_decoder", dim, dim),
    ):
        num_layers = config["n_layers_" + part.replace("_transformer", "")]
        for i in range(num_layers):
            shapes |= _layer_shapes(f"{part}.layers.{i}.", width, kv)
    if has_cross:
        shapes["local_encoder.patch_embedding_projection"] = (k * dim, dim)
        for part in ("encoder", "decoder"):
            is_all = config[f"cross_attn_all_layers_{part}"]
            for i in range(config[f"n_layers_local_{part}"] if is_all else 1):
                shapes |= _cross_shapes(f"local_{part}.cross_attn_layers.{i}.", dim)
    if patch_width != wide or "global" in projections:
        shapes["global_transformer.token_embedding_projection"] = (wide, patch_width)
    if wide != dim or patch_width != wide or "decoder" in projections:
        shapes["local_decoder.patch_embedding_projection"] = (patch_width, wide)
    shapes["local_decoder.norm"] = (dim,)
    shapes["local_decoder.output"] = (VOCAB_SIZE, dim)
    return config, _random(shapes)


def random_entropy_model(**changes):
    """Returns a config and weights of an entropy model, by the names of the paper's authors."""
    config = {**ENTROPY_CONFIG, **changes}
    dim = config["dim"]
    shapes = {"tok_embeddings": (VOCAB_SIZE, dim), "norm": (dim,), "output": (VOCAB_SIZE, dim)}
    for i in range(config["n_layers"]):
        shapes |= _layer_shapes(f"layers.{i}.", dim, dim)
    return config, _random(shapes)


def _layer_shapes(name, dim, kv_width):
    return {
        f"{name}attention_norm": (dim,),
        f"{name}attention.wq": (dim, dim),
        f"{name}attention.wk": (kv_width, dim),
        f"{name}attention.wv": (kv_width, dim),
        f"{name}attention.wo": (dim, dim),
        f"{name}ffn_norm": (dim,),
        f"{name}feed_forward.w1": (HIDDEN_DIM, dim),
        f"{name}feed_forward.w3": (HIDDEN_DIM, dim),
        f"{name}feed_forward.w2": (dim, HIDDEN_DIM),
    }


def _cross_shapes(name, dim):
    norms = {f"{name}cross_attn_norm_{each}": (dim,) for each in ("q", "kv")}
    return norms | {f"{name}{each}": (dim, dim) for each in ("wq", "wk", "wv", "wo")}


def _random(shapes):
    rng = np.random.default_rng(11)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1:  # a norm
            values = 1 + 0.25 * rng.normal(size=shape)
        else:
            scale = 1 if "embedding" in name and "projection" not in name else 1 / np.sqrt(shape[1])
            values = scale * rng.normal(size=shape)
        weights[f"{name}.weight"] = values.astype(np.float32)
    return weights


_HF_NAMES = (
    ("tok_embeddings", "embed_tokens"),
    ("attention_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attention.w", "self_attn.w"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("cross_attn_norm_q.", "q_norm."),
    ("cross_attn_norm_kv.", "k_norm."),
    (".wq.", ".q_proj."),
    (".wk.", ".k_proj."),
    (".wv.", ".v_proj."),
    (".wo.", ".o_proj."),
    ("local_decoder.output.", "lm_head."),
)


def _hf_name(name):
    for theirs, hf in _HF_NAMES:
        name = name.replace(theirs, hf)
    return name


def hf_patcher(config, weights):
    """Returns an entropy model's config and weights as Hugging Face has them."""
    hf_config = {
        **_hf_stack(config["dim"], config["n_heads"], config["n_heads"], config),
        "model_type": "blt_patcher",
        "vocab_size": VOCAB_SIZE,
        "num_hidden_layers": config["n_layers"],
        "max_position_embeddings": config["max_seqlen"],
        "sliding_window": config["sliding_window"],
    }
    names = {name: _hf_name(name).replace("output.", "lm_head.") for name in weights}
    return hf_config, {names[name]: array for name, array in weights.items()}


def hf_blt(config, weights, patcher_config, patcher_weights):
    """Returns a BLT's config and weights as Hugging Face has them, with the patcher inside."""
    tables = [name for name in weights if name.startswith("encoder_hash_tok_embedding.")]
    hf_weights = {
        ("" if "local_decoder.output" in name else "model.") + _hf_name(name): array
        for name, array in weights.items()
        if name not in tables
    }
    hf_weights["model.encoder_hash_tok_embedding.weight"] = np.concatenate(
        [weights[name] for name in tables]
    )
    hf_weights |= {f"model.patcher.{name}": array for name, array in patcher_weights.items()}
    return _hf_blt_config(config, patcher_config), hf_weights


def _hf_blt_config(config, patcher_config):
    kv_heads = config["n_kv_heads_global"] or config["n_heads_global"]
    local = {
        part: {
            **_hf_stack(
                config["dim_local_encoder"],
                config["n_heads_local_encoder"],
                config["n_heads_local_encoder"],
                config,
            ),
            "cross_attn_all_layers": config[f"cross_attn_all_layers_{part}"],
            "cross_attn_k": config["cross_attn_k"],
            "num_hidden_layers": config[f"n_layers_local_{part}"],
            "max_position_embeddings": config["max_encoder_seq_length"],
        }
        for part in ("encoder", "decoder")
    }
    return {
        "model_type": "blt",
        "vocab_size": VOCAB_SIZE,
        "cross_attn_k": config["cross_attn_k"],
        "local_attention_window_len": config["local_attention_window_len"],
        "patching_mode": "entropy",
        "patching_threshold": 4.5,
        "encoder_hash_byte_group_size": config["encoder_hash_byte_group_size"],
        "encoder_hash_byte_group_vocab": config["encoder_hash_byte_group_vocab"],
        "encoder_hash_byte_group_nb_functions": config["encoder_hash_byte_group_nb_functions"],
        "encoder_config": local["encoder"],
        "decoder_config": local["decoder"],
        "global_config": {
            **_hf_stack(config["dim_global"], config["n_heads_global"], kv_heads, config),
            "num_hidden_layers": config["n_layers_global"],
            "max_position_embeddings": config["max_seqlen"],
        },
        "patcher_config": patcher_config,
    }


def _hf_stack(dim, heads, kv_heads, config):
    return {
        "hidden_size": dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": HIDDEN_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": config["norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
    }


def random_hf_blt(**changes):
    """Returns config and weights of a random `BltForCausalLM`, with its decoder's projection."""
    return hf_blt(
        *random_blt(**{"projections": ("decoder",), **changes}),
        *hf_patcher(*random_entropy_model()),
    )


def save_folder(folder, config, weights):
    """Writes config.json and model.safetensors, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder
