"""How the two families of checkpoints name their weights, part by part.

Both have the same parts, which compute the same; see docs/convert.md for where they differ.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from blt.conversion.weights import Binding, Source


@dataclasses.dataclass(frozen=True)
class Names:
    """What a family calls its parts; `.weight` follows every name.

    Attributes:
      model: prefix of the parts of a BLT, and `patcher` of its entropy model, if that is in there.
      embedding: of bytes.
      query, key, value, out, gate, up, down, attention_norm, feed_forward_norm: in a layer.
      cross_query … cross_key_value_norm: in a layer of cross-attention.
      output: the matrix of logits, of an entropy model; `blt_output`: of a BLT, without prefix.
      global_projection, decoder_projection: of patches, in a BLT, which may have them or not.
      has_table_per_hash: whether each hash has a table of n-grams, or all have one together.
    """

    model: str
    patcher: str
    embedding: str
    query: str
    key: str
    value: str
    out: str
    gate: str
    up: str
    down: str
    attention_norm: str
    feed_forward_norm: str
    cross_query: str
    cross_key: str
    cross_value: str
    cross_out: str
    cross_query_norm: str
    cross_key_value_norm: str
    output: str
    blt_output: str
    has_table_per_hash: bool

    @property
    def global_projection(self) -> str:
        return f"{self.model}global_transformer.token_embedding_projection"

    @property
    def decoder_projection(self) -> str:
        return f"{self.model}local_decoder.patch_embedding_projection"


META = Names(
    model="",
    patcher="",
    embedding="tok_embeddings",
    query="attention.wq",
    key="attention.wk",
    value="attention.wv",
    out="attention.wo",
    gate="feed_forward.w1",
    up="feed_forward.w3",
    down="feed_forward.w2",
    attention_norm="attention_norm",
    feed_forward_norm="ffn_norm",
    cross_query="wq",
    cross_key="wk",
    cross_value="wv",
    cross_out="wo",
    cross_query_norm="cross_attn_norm_q",
    cross_key_value_norm="cross_attn_norm_kv",
    output="output",
    blt_output="local_decoder.output",
    has_table_per_hash=True,
)
HUGGING_FACE = Names(
    model="model.",
    patcher="model.patcher.",
    embedding="embed_tokens",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    attention_norm="input_layernorm",
    feed_forward_norm="post_attention_layernorm",
    cross_query="q_proj",
    cross_key="k_proj",
    cross_value="v_proj",
    cross_out="o_proj",
    cross_query_norm="q_norm",
    cross_key_value_norm="k_norm",
    output="lm_head",
    blt_output="lm_head",
    has_table_per_hash=False,
)


def _bind(path: str, *sources: tuple[Any, ...]) -> Binding:
    """Binds a path to (name, shape[, rotary_head_dim]) of weights, names without `.weight`."""
    return Binding(path, tuple(Source(f"{name}.weight", *rest) for name, *rest in sources))


def bind_entropy_model(
    options: Mapping[str, Any], names: Names, *, prefix: str = ""
) -> list[Binding]:
    """Returns what each weight of an entropy model is made of.

    Args:
      options: `vocab_size`, `dim`, `num_layers`, `num_heads`, `num_kv_heads`, `head_dim` and
        `hidden_dim` of an `EntropyModel`, none of them None; and `tied_embeddings`, if it is.
      names: of the family.
      prefix: of all names, where the model is part of another.
    """
    dim = options["dim"]
    return [
        *_bind_layers("", prefix, dim, options["num_layers"], options, options, names),
        _bind("norm.scale", (f"{prefix}norm", (dim,))),
        *_bind_tables(
            options,
            dim,
            ("embedding.byte_table", f"{prefix}{names.embedding}"),
            ("output_layer.kernel", f"{prefix}{names.output}"),
        ),
    ]


def _bind_tables(
    options: Mapping[str, Any], dim: int, embedding: tuple[str, str], output: tuple[str, str]
) -> Iterator[Binding]:
    """Yields what the byte embedding and the logits are made of: (path, name) of each.

    Where they are tied there is one matrix, of one name or under both.
    """
    shape, tie = (options["vocab_size"], dim), options.get("tied_embeddings")
    if tie != "output":
        yield _bind(embedding[0], (embedding[1], shape))
    if tie != "embedding":
        yield _bind(output[0] if tie is None else embedding[0], (output[1], shape))


def bind_blt(options: Mapping[str, Any], names: Names) -> list[Binding]:
    """Returns what each weight of a BLT is made of, its entropy model left out.

    Args:
      options: of a `ByteLatentTransformer`, where the configs of attention and of feed-forward
        networks hold `num_heads`, `num_kv_heads`, `head_dim` and `hidden_dim`, none of them None.
      names: of the family.
    """
    return [
        *_bind_tables(
            options,
            options["local_dim"],
            (
                "local_encoder.embedding.byte_table",
                f"{names.model}local_encoder.{names.embedding}",
            ),
            ("local_decoder.output_layer.kernel", names.blt_output),
        ),
        *_bind_encoder(options, names),
        *_bind_global(options, names),
        *_bind_decoder(options, names),
    ]


def _bind_encoder(options: Mapping[str, Any], names: Names) -> Iterator[Binding]:
    ours, theirs = "local_encoder.", f"{names.model}local_encoder."
    dim = options["local_dim"]
    cross = options["cross_attention_config"]["encoder_layers"]
    num_layers = options["num_encoder_layers"]
    attention, ffn = options["local_attention_config"], options["local_ffn_config"]
    yield from _bind_ngrams(options, names)
    yield from _bind_layers(ours, theirs, dim, num_layers, attention, ffn, names)
    if cross != "none":
        shape = (options["num_slices"] * dim, dim)
        yield _bind(
            f"{ours}patch_projection.kernel", (f"{theirs}patch_embedding_projection", shape)
        )
    for i in range({"all": num_layers, "last": 1, "none": 0}[cross]):
        yield from _bind_cross_attention(ours, theirs, i, dim, names)


def _bind_ngrams(options: Mapping[str, Any], names: Names) -> Iterator[Binding]:
    num_tables = len(options["ngram_sizes"]) * options["num_hash_functions"]
    size, dim = options["ngram_table_size"], options["local_dim"]
    name = f"{names.model}encoder_hash_tok_embedding"
    tables = [(f"{name}.{n}", (size, dim)) for n in range(num_tables)]
    if not names.has_table_per_hash:
        tables = [(name, (num_tables * size, dim))]
    if num_tables:
        yield _bind("local_encoder.embedding.ngram_table", *tables)


def _bind_global(options: Mapping[str, Any], names: Names) -> Iterator[Binding]:
    ours, theirs = "global_transformer.", f"{names.model}global_transformer."
    dim = options["global_dim"]
    if has_global_projection(options):
        shape = (dim, patch_width(options))
        yield _bind(f"{ours}projection.kernel", (names.global_projection, shape))
    attention, ffn = options["global_attention_config"], options["global_ffn_config"]
    num_layers = options["num_global_layers"]
    yield from _bind_layers(ours, theirs, dim, num_layers, attention, ffn, names)


def patch_width(options: Mapping[str, Any]) -> int:
    """Returns the width of patches as the local encoder makes them."""
    has_slices = options["cross_attention_config"]["encoder_layers"] != "none"
    return options["local_dim"] * (options["num_slices"] if has_slices else 1)


def has_global_projection(options: Mapping[str, Any]) -> bool:
    """Says whether a BLT of these options projects patches before its global transformer."""
    said = options.get("global_projection")
    return patch_width(options) != options["global_dim"] if said is None else said


def has_decoder_projection(options: Mapping[str, Any]) -> bool:
    """Says whether a BLT of these options projects patches before its decoder."""
    said = options.get("decoder_projection")
    return options["global_dim"] != options["local_dim"] if said is None else said


def _bind_decoder(options: Mapping[str, Any], names: Names) -> Iterator[Binding]:
    ours, theirs = "local_decoder.", f"{names.model}local_decoder."
    dim = options["local_dim"]
    num_layers = options["num_decoder_layers"]
    attention = options["decoder_attention_config"] or options["local_attention_config"]
    ffn = options["decoder_ffn_config"] or options["local_ffn_config"]
    cross = options["cross_attention_config"]["decoder_layers"]
    if has_decoder_projection(options):
        shape = (patch_width(options), options["global_dim"])
        yield _bind(f"{ours}patch_projection.kernel", (names.decoder_projection, shape))
    yield from _bind_layers(ours, theirs, dim, num_layers, attention, ffn, names)
    for i in range({"all": num_layers, "first": 1, "none": 0}[cross]):
        yield from _bind_cross_attention(ours, theirs, i, dim, names)
    yield _bind(f"{ours}norm.scale", (f"{theirs}norm", (dim,)))


def _bind_layers(
    ours: str,
    theirs: str,
    dim: int,
    num_layers: int,
    attention: Mapping[str, Any],
    ffn: Mapping[str, Any],
    names: Names,
) -> Iterator[Binding]:
    """Yields what the layers of a stack are made of; `ours` and `theirs` are prefixes."""
    head_dim = attention["head_dim"]
    q_shape = (attention["num_heads"] * head_dim, dim)
    kv_shape = (attention["num_kv_heads"] * head_dim, dim)
    hidden = ffn["hidden_dim"]
    for i in range(num_layers):
        our, their = f"{ours}transformer_layers.{i}.", f"{theirs}layers.{i}."
        yield _bind(f"{our}attention_norm.scale", (f"{their}{names.attention_norm}", (dim,)))
        yield _bind(
            f"{our}attention.qkv.kernel",
            (f"{their}{names.query}", q_shape, head_dim),
            (f"{their}{names.key}", kv_shape, head_dim),
            (f"{their}{names.value}", kv_shape),
        )
        yield _bind(f"{our}attention.out.kernel", (f"{their}{names.out}", q_shape[::-1]))
        yield _bind(f"{our}feed_forward_norm.scale", (f"{their}{names.feed_forward_norm}", (dim,)))
        yield _bind(
            f"{our}feed_forward.gate_up.kernel",
            (f"{their}{names.gate}", (hidden, dim)),
            (f"{their}{names.up}", (hidden, dim)),
        )
        yield _bind(f"{our}feed_forward.down.kernel", (f"{their}{names.down}", (dim, hidden)))


def _bind_cross_attention(
    ours: str, theirs: str, i: int, dim: int, names: Names
) -> Iterator[Binding]:
    our, their = f"{ours}cross_attention_layers.{i}.", f"{theirs}cross_attn_layers.{i}."
    square = (dim, dim)
    yield _bind(f"{our}query_norm.scale", (f"{their}{names.cross_query_norm}", (dim,)))
    yield _bind(f"{our}key_value_norm.scale", (f"{their}{names.cross_key_value_norm}", (dim,)))
    yield _bind(f"{our}query.kernel", (f"{their}{names.cross_query}", square))
    yield _bind(
        f"{our}key_value.kernel",
        (f"{their}{names.cross_key}", square),
        (f"{their}{names.cross_value}", square),
    )
    yield _bind(f"{our}out.kernel", (f"{their}{names.cross_out}", square))
