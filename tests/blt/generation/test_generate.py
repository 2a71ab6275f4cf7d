import functools
import sys

import keras
import numpy as np
import pytest

from blt.engine import EntropyEngine, LineEngine
from blt.errors import ConfigError
from blt.generation import GenerationConfig, choose_token
from blt.model import ByteLatentTransformer, EntropyModel
from blt.patching.rules import PatchRule, find_patch_lengths
from blt.tokenizer import frame_tokens, tokens_to_bytes

PROMPTS = ["The future of AI is", b"", "x", "A longer prompt, of more words than the others \xe9"]
RULES = {
    "entropy": {"rule": "entropy", "threshold_nats": 4.7},
    "monotonic": {"rule": "monotonic", "threshold_nats": 0.2},
    "lines": {"rule": "entropy", "threshold_nats": 4.7, "reset_on_newline": True},
    "space": {"rule": "space"},
    "static": {"rule": "static", "patch_size": 4, "max_patch_length": 3},
    "one long patch": {"rule": "entropy", "threshold_nats": 5.56},
}
VARIANTS = {
    **{name: {"patch_rule": PatchRule(**rule)} for name, rule in RULES.items()},
    "all layers, windows": {
        "num_encoder_layers": 2,
        "cross_attention_config": {
            "encoder_layers": "all",
            "encoder_window": 1,
            "decoder_window": 3,
        },
        "decoder_attention_config": {"num_heads": 2, "window": 4},
    },
    "patches that see the ones before": {"cross_attention_config": {"encoder_window": 2}},
    "no cross-attention": {
        "cross_attention_config": {"encoder_layers": "none", "decoder_layers": "none"}
    },
    "tied, with projections": {
        "tied_embeddings": "embedding",
        "global_dim": 16,
        "num_slices": 2,
        "global_projection": True,
        "decoder_projection": True,
    },
    "mixture": {"global_moe_config": {"num_experts": 3}},
    "windowed global": {
        "global_attention_config": {"type": "sliding_window", "num_heads": 4, "window": 5}
    },
    "meta": {"compat": "meta"},
    "hf": {"compat": "hf", "patch_rule": PatchRule(**RULES["entropy"], compat="meta")},
}
# The weights are made large, and rounding with them: 2e-4 on some CPUs. A context that goes on
# where it should end moves every logit by 0.8 and more.
TOLERANCE = 1e-3
# Backends compile for longer than they run: a few must do, fewer where TensorFlow's were run.
FEW = ("entropy", "all layers, windows", "no cross-attention")
FAST = FEW if keras.backend.backend() != "tensorflow" else (*FEW, "space", "hf", "mixture")
TESTED = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS]


@functools.cache
def make(variant="entropy"):
    keras.utils.set_random_seed(0)
    model = ByteLatentTransformer(
        **{
            "local_dim": 16,
            "global_dim": 40,
            "num_global_layers": 2,
            "num_decoder_layers": 2,
            "local_attention_config": {"num_heads": 2, "window": 6},
            "global_attention_config": {"type": "group_query", "num_heads": 4},
            "ngram_sizes": [2, 3],
            "ngram_table_size": 64,
            "entropy_model": EntropyModel(
                dim=16, num_layers=2, num_heads=2, window=8, ngram_sizes=[2], ngram_table_size=9
            ),
            "patch_rule": PatchRule(**RULES["entropy"]),
            **VARIANTS[variant],
        }
    )
    for weight in model.weights:  # large, so that bytes and patches differ
        if "norm" not in weight.path and "float" in keras.backend.standardize_dtype(weight.dtype):
            weight.assign(4.0 * weight)
    return model


def greedy(model, prompts, **options):
    return model.generate(prompts, max_new_tokens=40, temperature=0, return_bytes=True, **options)


@pytest.mark.parametrize("variant", TESTED)
def test_greedy_generation_is_the_argmax_of_full_passes(variant):
    model = make(variant)
    cached = greedy(model, PROMPTS)
    assert cached == greedy(model, PROMPTS, use_cache=False)
    assert len({result[-20:] for result in cached}) > 1  # not one loop for all


def test_greedy_generation_is_the_argmax_of_the_model_called_by_a_user():
    model = make()
    generated = greedy(model, "The future")
    tokens = frame_tokens(generated, add_eos=False).astype("int32")
    for count in range(len(b"The future") + 1, len(tokens), 6):
        logits = keras.ops.convert_to_numpy(model(tokens[None, :count]))[0, -1]
        logits[[0, 1, 3]] = -np.inf
        assert logits.argmax() == tokens[count]


def test_newlines_that_come_cut_the_context_of_entropies(monkeypatch):
    module = sys.modules["blt.generation.generate"]
    model = make("lines")
    prompts, script = [b"x\nwords", b""], [b"ab\n\ncd\nefg\r\nhi", b"\nab\nab\na line\n\n\n"]

    def logits_of(use_cache):
        seen = []

        def say_the_script(logits, config, rng):
            seen.append(logits)
            return script[len(seen) % 2 - 1][(len(seen) - 1) // 2] + 4

        monkeypatch.setattr(module, "choose_token", say_the_script)
        model.generate(prompts, max_new_tokens=14, use_cache=use_cache)
        return np.array(list(map(keras.ops.convert_to_numpy, seen)))

    cached = logits_of(True)
    np.testing.assert_allclose(cached, logits_of(False), atol=TOLERANCE)
    lines = LineEngine(EntropyEngine(model.entropy_model))
    for row, (prompt, said) in enumerate(zip(prompts, script, strict=True)):
        tokens = frame_tokens(prompt + said[:13] + b"?", add_eos=False).astype("int32")
        (found,) = lines.run([(0, tokens)])
        lengths = find_patch_lengths(tokens, found.entropies, model.patch_rule)
        assert 3 < len(lengths) < len(tokens) - 2  # some bytes open a patch, some do not
        # What "?" is does not matter.
        given = keras.ops.convert_to_numpy(model(tokens[None, :-1], lengths[None]))
        alone = keras.ops.convert_to_numpy(model(tokens[None, :-1]))
        np.testing.assert_allclose(cached[26 + row], given[0, -1], atol=TOLERANCE)
        np.testing.assert_allclose(cached[26 + row], alone[0, -1], atol=TOLERANCE)


@pytest.mark.parametrize("variant", ["entropy", "space"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8, "seed": 5}])
def test_a_prompt_gives_in_a_batch_what_it_gives_alone(variant, options):
    model = make(variant)
    options = {"max_new_tokens": 30, "return_bytes": True, **options}
    assert model.generate(PROMPTS, **options) == [
        model.generate(prompt, **options) for prompt in PROMPTS
    ]


def test_seeds_say_what_is_drawn():
    model = make()
    draw = functools.partial(model.generate, max_new_tokens=20, return_bytes=True)
    first, second = draw(["abc", "abc"], seed=[1, 2])
    assert first != second
    assert draw("abc", seed=2) == second == draw("abc", seed=2, top_p=1.0, top_k=300)


def test_generation_sees_weights_as_they_are_now():
    keras.utils.set_random_seed(1)
    model = ByteLatentTransformer(
        local_dim=16, global_dim=32, entropy_model=None, patch_rule={"rule": "space"}
    )
    before = model.generate("abc", max_new_tokens=8, temperature=0, return_bytes=True)
    kernel = model.local_decoder.output_layer.kernel
    kernel.assign(-1.0 * kernel)
    after = model.generate("abc", max_new_tokens=8, temperature=0, return_bytes=True)
    assert before != after


def make_indifferent():
    """Makes a model to which all tokens are equally likely."""
    model = ByteLatentTransformer.from_config(make("space").get_config())
    model.local_decoder.norm.gamma.assign(np.zeros(16, "float32"))
    return model


def test_it_stops_at_eos_and_a_row_that_ended_waits_for_the_others():
    model = make_indifferent()
    # The likeliest is the first that may be said, which is EOS.
    assert model.generate(["ab", ""], max_new_tokens=50, temperature=0) == ["ab", ""]
    options = {"max_new_tokens": 400, "top_k": 40, "return_bytes": True}
    together = model.generate(["ab", "cd", ""], seed=[0, 1, 2], **options)
    lengths = [len(row) for row in together]
    assert len(set(lengths)) == 3 and max(lengths) < 400
    alone = [model.generate(p, seed=i, **options) for i, p in enumerate(["ab", "cd", ""])]
    assert alone == together


def test_it_never_says_a_special_id_but_eos():
    logits = np.zeros(260)
    logits[[0, 1, 3]] = 100.0
    rng = np.random.default_rng(0)
    drawn = {choose_token(logits, GenerationConfig(), rng) for _ in range(5000)}
    assert drawn == {2, *range(4, 260)}
    assert choose_token(logits, GenerationConfig(temperature=0), rng) == 2


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, {100}),
        ({"top_k": 2}, {100, 50}),
        ({"top_p": 0.5}, {100}),
        ({"top_p": 0.71}, {100, 50}),
        ({"top_p": 0.95}, {100, 50, 7}),
        ({"top_k": 3, "top_p": 0.71}, {100}),  # of the three, the first has 0.7 / 0.96 = 0.73
        ({"temperature": 1e-3}, {100}),
        ({"temperature": 0}, {100}),
    ],
)
def test_draws_come_from_the_likeliest(options, allowed):
    logits = np.full(260, -1e9)
    logits[[100, 50, 7, 2]] = np.log([0.7, 0.2, 0.06, 0.04])
    rng = np.random.default_rng(0)
    config = GenerationConfig(**options)
    assert {choose_token(logits, config, rng) for _ in range(2000)} == allowed


def test_draws_have_the_probabilities_of_the_model_at_that_temperature():
    logits = np.full(260, -1e9)
    logits[[100, 50]] = np.log([0.8, 0.2])
    rng = np.random.default_rng(0)
    config = GenerationConfig(temperature=2.0)
    drawn = [choose_token(logits, config, rng) for _ in range(20_000)]
    assert np.mean(np.array(drawn) == 100) == pytest.approx(2 / 3, abs=0.015)  # sqrt(4) to 1


def test_streams_give_the_same_piece_by_piece():
    model = make()
    options = {"max_new_tokens": 30, "temperature": 1.0, "seed": 3}
    whole = model.generate(PROMPTS[0], strip_prompt=True, **options)
    assert whole.startswith(next(model.generate(PROMPTS[0], stream=True, **options)))
    assert "".join(model.generate(PROMPTS[0], stream=True, **options)) == whole
    raw = b"".join(model.generate(PROMPTS[0], stream=True, return_bytes=True, **options))
    assert raw == model.generate(PROMPTS[0], strip_prompt=True, return_bytes=True, **options)
    assert raw.decode("utf-8", "replace") == whole
    steps = list(model.generate(PROMPTS, stream=True, **options))
    together = ["".join(pieces) for pieces in zip(*steps, strict=True)]
    assert together == model.generate(PROMPTS, strip_prompt=True, **options)


def test_bytes_that_are_no_text_are_shown_and_kept():
    model = make()
    text = model.generate(b"caf\xc3", max_new_tokens=0)
    assert text == "caf\N{REPLACEMENT CHARACTER}"
    assert model.generate(b"caf\xc3", max_new_tokens=0, return_bytes=True) == b"caf\xc3"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_tokens": 3}, "Did you mean 'max_new_tokens'"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, or None, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], or None, got 0.0"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"seed": "a"}, "seed must be at least 0, or such for each prompt, got 'a'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be at least 0, got 2.5"),
        ({"temperature": None}, "temperature must be at least 0, got None"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        make().generate("abc", **options)


@pytest.mark.parametrize(
    ("prompts", "what"),
    [
        ([[1, 70, 71]], r"prompts\[0\] is of type list"),
        ([1, 70, 71], r"prompts\[0\] is of type int"),
        (["a", (70, 71)], r"prompts\[1\] is of type tuple"),
        (np.array([[1, 70, 71]]), r"prompts\[0\] is of type ndarray"),
        (np.array([1, 70, 71]), r"prompts\[0\] is of type int64"),
        (np.int32(3), "prompts is of type int32"),
        (5, "prompts is of type int"),
        (None, "prompts is of type NoneType"),
        ({"a": 1}, "prompts is of type dict"),
    ],
)
def test_numbers_are_no_prompts_since_they_may_be_ids_or_bytes(prompts, what):
    with pytest.raises(ConfigError, match=f"{what}, but a prompt is text or bytes.*tokens_to_byt"):
        make("space").generate(prompts, max_new_tokens=1)


def test_what_the_message_says_makes_a_prompt_of_ids_and_of_bytes():
    model = make("space")
    generate = functools.partial(model.generate, max_new_tokens=4, temperature=0, return_bytes=True)
    expected = generate("BC")
    assert generate(tokens_to_bytes([1, 70, 71])) == expected
    assert generate(bytes([66, 67])) == generate(bytearray([66, 67])) == expected
    assert generate(iter(["BC"])) == generate(np.array(["BC"])) == [expected]


def test_a_surrogate_is_no_text():
    with pytest.raises(ConfigError, match=r"prompts\[1\] holds an unpaired surrogate \('.ud800'\)"):
        make("space").generate(["a", "b\ud800"])


def test_what_cannot_generate_says_so():
    with pytest.raises(ConfigError, match="there are no prompts"):
        make().generate([])
    with pytest.raises(ConfigError, match="the model cannot cut patches"):
        ByteLatentTransformer(local_dim=16, global_dim=32, entropy_model=None).generate("a")
