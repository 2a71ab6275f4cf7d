"""The entropy models of `benchmarks/gpu.py` in PyTorch, as a good user of it would run them.

    python benchmarks/gpu_torch.py --weights P.npz --rows rows.npz --output out.json --compile

Plain modules in bfloat16, and `flex_attention` with a mask of sliding window and document that is
made anew for each row; with `--compile` all the rest goes through `torch.compile` as well. Rows
stand alone: a document that a row cuts loses its context, which our engine carries on. Two rows are
under way at a time, and what leaves the card is two numbers a token.

`--weights` is what `export_weights` writes; `--rows` has `tokens` and `segment_ids`, each
[num_rows, row_length] int32. Needs PyTorch alone.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

THETA = 10_000.0
EPSILON = 1e-5


def export_weights(model: Any, path: Path) -> None:
    """Writes the weights of a Keras `EntropyModel` without n-grams, by path, and its sizes."""
    config = model.get_config()
    names = ("dim", "num_layers", "num_heads", "hidden_dim", "window")
    arrays = {w.path.partition("/")[2]: np.asarray(w.value) for w in model.weights}
    np.savez(path, config=json.dumps({name: config[name] for name in names}), **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--entropies", type=Path, help="write those of the first row there")
    parser.add_argument("--wait", type=Path, help="when warm, make this file and wait till it goes")
    arguments = parser.parse_args()

    import torch

    torch.set_float32_matmul_precision("high")  # TensorFloat-32 for the logits, as JAX has it
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    model = make_model(arguments.weights).to(device).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("output"):
            parameter.data = parameter.data.to(dtype)
    rows = np.load(arguments.rows)
    tokens = torch.from_numpy(rows["tokens"].astype(np.int64))
    segment_ids = torch.from_numpy(rows["segment_ids"].astype(np.int32))
    if cuda:
        tokens, segment_ids = tokens.pin_memory(), segment_ids.pin_memory()
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "compiled": arguments.compile,
        "row_length": tokens.shape[1],
    }
    run = make_run(model, arguments.compile and cuda, cuda)
    with torch.inference_mode():
        start = time.perf_counter()
        first = run_pass(run, tokens[:1], segment_ids[:1], device)
        run_pass(run, tokens[:2], segment_ids[:2], device)
        figures["compile_seconds"] = time.perf_counter() - start
        if arguments.wait:
            arguments.wait.touch()
            while arguments.wait.exists():
                time.sleep(0.05)
        start = time.perf_counter()
        run_pass(run, tokens, segment_ids, device)
        once = time.perf_counter() - start
        repeats = max(1, round(arguments.seconds / 3 / once))
        found = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(repeats):
                run_pass(run, tokens, segment_ids, device)
            found.append((time.perf_counter() - start) / repeats)
    if arguments.entropies:
        np.save(arguments.entropies, first[0][0].numpy())
    num_bytes = int((rows["tokens"] >= 4).sum())
    seconds = statistics.median(found)
    figures |= {"bytes_per_second": num_bytes / seconds, "seconds": found}
    if cuda:
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    arguments.output.write_text(json.dumps(figures) + "\n")


def matrix_rate() -> float:
    """Operations a second of a bfloat16 product of 8192 x 8192 matrices."""
    import torch

    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    found = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            torch.matmul(x, y)
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / 10)
    return 2 * 8192**3 / statistics.median(found)


def make_model(path: Path) -> Any:
    """Returns the model with the weights of the file, float32."""
    import torch
    from torch import nn
    from torch.nn import functional

    weights = np.load(path)
    config = json.loads(str(weights["config"]))
    dim, num_heads = config["dim"], config["num_heads"]
    head_dim = dim // num_heads

    def matrix(name: str) -> Any:
        kernel = torch.from_numpy(weights[name])  # [inputs, outputs]
        linear = nn.Linear(*kernel.shape, bias=False)
        linear.weight = nn.Parameter(kernel.T.contiguous())
        return linear

    class Norm(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.from_numpy(weights[f"{name}/scale"]))

        def forward(self, x: Any) -> Any:
            return functional.rms_norm(x, (dim,), self.scale, EPSILON)

    class Layer(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.attention_norm = Norm(f"{name}/attention_norm")
            self.feed_forward_norm = Norm(f"{name}/feed_forward_norm")
            self.qkv = matrix(f"{name}/attention/qkv/kernel")
            self.out = matrix(f"{name}/attention/out/kernel")
            self.gate_up = matrix(f"{name}/feed_forward/gate_up/kernel")
            self.down = matrix(f"{name}/feed_forward/down/kernel")

        def before(self, x: Any, cos: Any, sin: Any) -> tuple[Any, Any, Any]:
            q, k, v = self.qkv(self.attention_norm(x)).split(dim, dim=-1)
            q, k, v = (y.view(1, -1, num_heads, head_dim).transpose(1, 2) for y in (q, k, v))
            return rotate(q, cos, sin), rotate(k, cos, sin), v

        def after(self, x: Any, y: Any) -> Any:
            x = x + self.out(y.transpose(1, 2).reshape(x.shape))
            gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, dim=-1)
            return x + self.down(functional.silu(gate) * up)

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.window = config["window"]
            self.embedding = nn.Embedding.from_pretrained(
                torch.from_numpy(weights["embedding/byte_table"])
            )
            self.layers = nn.ModuleList(Layer(f"layer_{i}") for i in range(config["num_layers"]))
            self.norm = Norm("norm")
            self.output = matrix("output/kernel")
            self.frequencies = THETA ** (
                -torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
            )

        def tables(self, num_tokens: int, device: str) -> tuple[Any, Any]:
            angles = torch.arange(num_tokens, dtype=torch.float64)[:, None] * self.frequencies
            return angles.cos().float().to(device), angles.sin().float().to(device)

        def forward(self, tokens: Any, cos: Any, sin: Any, attend: Any) -> Any:
            x = self.embedding(tokens)
            for layer in self.layers:
                x = layer.after(x, attend(*layer.before(x, cos, sin)))
            return self.head(x, tokens)

        def head(self, x: Any, tokens: Any) -> Any:
            log_p = torch.log_softmax(self.output(self.norm(x).float()), dim=-1)
            entropies = -(log_p.exp() * log_p).sum(-1)
            nats = -log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
            return torch.stack([entropies, functional.pad(nats, (1, 0))])

        def compile_parts(self) -> None:
            """All but attention, which is compiled anyway."""
            for part, names in ((self, ["head"]), *((x, ["before", "after"]) for x in self.layers)):
                for name in names:
                    setattr(part, name, torch.compile(getattr(part, name), dynamic=False))

    return Model()


def make_run(model: Any, compiled: bool, cuda: bool) -> Any:
    """Returns a function of a row's tokens and segment ids, [1, num_tokens] on the device."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # Without compiling, flex_attention would make the whole matrix of scores.
    attend_by_mask = torch.compile(flex_attention, dynamic=False) if cuda else flex_attention
    make_mask = torch.compile(create_block_mask, dynamic=False) if cuda else create_block_mask
    kept: dict[str, Any] = {}

    def keep(segments: Any) -> None:
        """One buffer of segment ids serves all rows, so that nothing is compiled twice."""

        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            near = (query >= key) & (query - key < model.window)
            return near & (segments[query] == segments[key])

        kept.update(segments=segments, sees=sees)
        kept["tables"] = model.tables(len(segments), segments.device)

    if compiled:
        model.compile_parts()

    def run(tokens: Any, segment_ids: Any) -> Any:
        num_tokens = tokens.shape[1]
        if not kept:
            keep(segment_ids[0].clone())
        kept["segments"].copy_(segment_ids[0])
        mask = make_mask(kept["sees"], None, None, num_tokens, num_tokens, device=tokens.device)
        attend = functools.partial(attend_by_mask, block_mask=mask)
        return model(tokens, *kept["tables"], attend)

    return run


def run_pass(run: Any, tokens: Any, segment_ids: Any, device: str) -> list[Any]:
    """Runs all rows; returns what each gave, [2, num_tokens] float32 in host memory."""
    import torch

    results, events = [], []
    for row in range(len(tokens)):
        found = run(
            tokens[row : row + 1].to(device, non_blocking=True),
            segment_ids[row : row + 1].to(device, non_blocking=True),
        )
        if device == "cpu":
            results.append(found[:, 0])
            continue
        host = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(found, non_blocking=True)
        events.append(torch.cuda.Event())
        events[-1].record()
        results.append(host[:, 0])
        if row:
            events[row - 1].synchronize()
    if events:
        events[-1].synchronize()
    return results


if __name__ == "__main__":
    main()
