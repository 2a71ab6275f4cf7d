"""What the published checkpoints compute, in NumPy, one row at a time and as plainly as can be.

Nothing here is imported from our package, so that an agreement with it means something. Weights and
configs have the names of the paper's authors; all matrices are [out, in]. Run on the vectors of the
reference implementations, it gives their numbers (`test_parity.py`).

Letters in einsums: q query, k key, h head, d width of a head.
"""

import numpy as np

EOS = 2
PRIMES = (1000000007, 5915587277, 1500450271, 3267000013)


def entropy_model_logits(config, weights, tokens):
    """[num_tokens] -> [num_tokens, vocab] float64, with windows inside documents."""
    mask = _causal(len(tokens), config["sliding_window"]) & _same(_documents(tokens))
    x = weights["tok_embeddings.weight"][tokens].astype(np.float64)
    x = _stack(weights, "", x, mask, config["n_heads"], config["n_heads"], config)
    return _norm(weights, "norm", x, config) @ weights["output.weight"].T


def blt_logits(
    config, weights, tokens, patch_lengths, *, pools_each_layer=False, last_reads_previous=False
):
    """Logits of a BLT.

    Args:
      config, weights: by the names of the paper's authors.
      tokens: [num_tokens].
      patch_lengths: [num_patches]; they sum to num_tokens, or to one more.
      pools_each_layer, last_reads_previous: what Hugging Face's implementation does otherwise.

    Returns:
      [num_tokens, vocab] float64.
    """
    num_tokens = len(tokens)
    patch_ids = np.repeat(np.arange(len(patch_lengths)), patch_lengths)
    if len(patch_ids) == num_tokens:  # what follows the row opens a patch, unless told otherwise
        following = patch_ids[-1] if last_reads_previous else len(patch_lengths)
        patch_ids = np.append(patch_ids, following)
    readable = patch_ids[1:] - 1
    patch_ids = patch_ids[:num_tokens]
    documents = _documents(tokens)
    local_mask = _causal(num_tokens, config["local_attention_window_len"]) & _same(documents)

    states = [_embed(config, weights, tokens)]
    heads = config["n_heads_local_encoder"]
    for i in range(config["n_layers_local_encoder"]):
        x = _layer(
            weights, f"local_encoder.layers.{i}.", states[-1], local_mask, heads, heads, config
        )
        states.append(x)
    num_patches = len(patch_lengths)
    patches = _patches(config, weights, states[1:], patch_ids, num_patches, pools_each_layer)

    if "global_transformer.token_embedding_projection.weight" in weights:
        patches = patches @ weights["global_transformer.token_embedding_projection.weight"].T
    # The patch that holds the end of a document is the last of its block.
    ends = [np.any(tokens[patch_ids == p] == EOS) for p in range(num_patches)]
    blocks = np.cumsum(ends) - ends
    patches = _stack(
        weights,
        "global_transformer.",
        patches,
        _causal(num_patches) & _same(blocks),
        config["n_heads_global"],
        config.get("n_kv_heads_global") or config["n_heads_global"],
        config,
    )
    return _decode(config, weights, states[-1], patches, readable, local_mask)


def _embed(config, weights, tokens):
    x = weights["local_encoder.tok_embeddings.weight"][tokens].astype(np.float64)
    n = 0
    for prime in PRIMES[: config["encoder_hash_byte_group_nb_functions"]]:
        for size in config["encoder_hash_byte_group_size"]:
            table = weights[f"encoder_hash_tok_embedding.{n}.weight"]
            x = x + table[_hashes(tokens, size, prime, len(table))]
            n += 1
    return x


def _hashes(tokens, size, prime, num_rows):
    padded = [0] * (size - 1) + [int(token) for token in tokens]
    rows = []
    for t in range(len(tokens)):
        total = sum(padded[t + i] * prime**i for i in range(size)) % 2**64
        rows.append((total - 2**64 if total >= 2**63 else total) % num_rows)
    return rows


def _patches(config, weights, states, patch_ids, num_patches, pools_each_layer):
    """[num_patches, slices * dim] (or dim) of the states after each layer of the encoder."""
    how = {"max": np.max, "min": np.min, "avg": np.mean}[config["downsampling_by_pooling"]]

    def pool(x):
        pooled = np.zeros((num_patches, x.shape[1]))
        for p in set(patch_ids):
            pooled[p] = how(x[patch_ids == p], axis=0)
        return pooled

    if not config["cross_attn_encoder"]:
        return pool(states[-1])
    k, dim = config["cross_attn_k"], states[0].shape[1]
    distance = np.arange(num_patches)[:, None] - patch_ids[None]
    near = (distance >= 0) & (distance < (config.get("cross_attn_window_encoder") or 1))
    mask = np.repeat(near, k, axis=0)
    if not config["cross_attn_all_layers_encoder"]:
        states = states[-1:]
    queries = None
    for j, x in enumerate(states):
        if queries is None or pools_each_layer:
            projected = pool(x) @ weights["local_encoder.patch_embedding_projection.weight"].T
            queries = projected.reshape(num_patches * k, dim)
        name = f"local_encoder.cross_attn_layers.{j}."
        queries = _cross_attention(config, weights, name, queries, x, mask)
    return queries.reshape(num_patches, k * dim)


def _decode(config, weights, x, patches, readable, local_mask):
    dim = x.shape[1]
    projection = weights.get("local_decoder.patch_embedding_projection.weight")
    if projection is not None:
        patches = patches @ projection.T
    if config["cross_attn_decoder"]:
        k = config["cross_attn_k"]
        distance = readable[:, None] - np.arange(len(patches))[None]
        near = (distance >= 0) & (distance < (config.get("cross_attn_window_decoder") or 1))
        mask = np.repeat(near, k, axis=1)
        slices = patches.reshape(-1, dim)
    else:
        padded = np.concatenate([patches, np.zeros((1, dim))])  # -1, nothing to read, is its last
        x = x + padded[readable]
    heads = config["n_heads_local_decoder"]
    for i in range(config["n_layers_local_decoder"]):
        is_one_of_them = i == 0 or config["cross_attn_all_layers_decoder"]
        if config["cross_attn_decoder"] and is_one_of_them:
            name = f"local_decoder.cross_attn_layers.{i}."
            x = _cross_attention(config, weights, name, x, slices, mask)
        x = _layer(weights, f"local_decoder.layers.{i}.", x, local_mask, heads, heads, config)
    x = _norm(weights, "local_decoder.norm", x, config)
    return x @ weights["local_decoder.output.weight"].T


def _cross_attention(config, weights, name, queries, keys, mask):
    """The residual is added twice, as the reference implementations do."""
    normed_queries = _norm(weights, f"{name}cross_attn_norm_q", queries, config)
    normed_keys = _norm(weights, f"{name}cross_attn_norm_kv", keys, config)
    heads = config["cross_attn_nheads"]
    q, k, v = (
        _split(x @ weights[f"{name}{part}.weight"].T, heads)
        for x, part in ((normed_queries, "wq"), (normed_keys, "wk"), (normed_keys, "wv"))
    )
    return 2 * queries + _attend(q, k, v, mask) @ weights[f"{name}wo.weight"].T


def _stack(weights, prefix, x, mask, heads, kv_heads, config):
    i = 0
    while f"{prefix}layers.{i}.attention_norm.weight" in weights:
        x = _layer(weights, f"{prefix}layers.{i}.", x, mask, heads, kv_heads, config)
        i += 1
    return x


def _layer(weights, name, x, mask, heads, kv_heads, config):
    normed = _norm(weights, f"{name}attention_norm", x, config)
    q, k, v = (
        _split(normed @ weights[f"{name}attention.{part}.weight"].T, count)
        for part, count in (("wq", heads), ("wk", kv_heads), ("wv", kv_heads))
    )
    q, k = _rotate(q, config["rope_theta"]), _rotate(k, config["rope_theta"])
    k, v = (np.repeat(each, heads // kv_heads, axis=1) for each in (k, v))
    x = x + _attend(q, k, v, mask) @ weights[f"{name}attention.wo.weight"].T
    normed = _norm(weights, f"{name}ffn_norm", x, config)
    gate, up = (normed @ weights[f"{name}feed_forward.{part}.weight"].T for part in ("w1", "w3"))
    return x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{name}feed_forward.w2.weight"].T


def _norm(weights, name, x, config):
    mean_square = np.mean(x**2, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + config["norm_eps"]) * weights[f"{name}.weight"]


def _split(x, heads):
    return x.reshape(len(x), heads, -1)


def _rotate(x, theta):
    """Turns neighbouring components of [position, head, d]."""
    position, width = np.arange(len(x))[:, None, None], x.shape[-1]
    angle = position * theta ** (-np.arange(0, width, 2) / width)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = even * np.cos(angle) - odd * np.sin(angle)
    turned[..., 1::2] = even * np.sin(angle) + odd * np.cos(angle)
    return turned


def _attend(q, k, v, mask):
    """Attention of queries that see at least one key; the others get 0. [q, h * d]."""
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(mask[None], scores, -np.inf)
    largest = np.max(scores, axis=-1, keepdims=True)
    shares = np.exp(scores - np.where(np.isfinite(largest), largest, 0))
    total = shares.sum(axis=-1, keepdims=True)
    attended = np.einsum("hqk,khd->qhd", shares / np.where(total > 0, total, 1), v)
    return attended.reshape(len(q), -1)


def _causal(length, window=None):
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    return (distance >= 0) & (distance < (window or length))


def _same(ids):
    return ids[:, None] == ids[None]


def _documents(tokens):
    """Numbers documents; each ends with its EOS."""
    is_end = tokens == EOS
    return np.cumsum(is_end) - is_end
