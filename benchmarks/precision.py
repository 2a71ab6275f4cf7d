"""What bfloat16, and entropies stored in 16 or 8 bits, do to boundaries and to bits per byte.

    python benchmarks/precision.py --data bytes --entropy-model entropy.keras

The engine runs over the documents in float32 and in bfloat16. For each target, the threshold that
gives the mean patch size in float32 is found, and boundaries by the rule `entropy` are compared
with float32's: moved are those that one has and the other has not, halved, as a share of float32's.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from blt.cli.quiet import import_keras, silence
from blt.tokenizer import BYTE_OFFSET

TARGETS = (4.5, 6.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="byte shards")
    parser.add_argument("--entropy-model", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=1_000_000)
    arguments = parser.parse_args()
    silence()
    import_keras()
    tokens = read_documents(arguments.data, arguments.max_bytes)
    exact, exact_nats = run(arguments.entropy_model, "float32", tokens)
    quick, quick_nats = run(arguments.entropy_model, "bfloat16", tokens)
    is_byte = np.concatenate(tokens) >= BYTE_OFFSET
    bits = [nats[is_byte].sum() / is_byte.sum() / math.log(2) for nats in (exact_nats, quick_nats)]
    print(f"{is_byte.sum():,} bytes; bits per byte {bits[0]:.5f} float32, {bits[1]:.5f} bfloat16")
    difference = np.abs(exact - quick)
    print(
        f"entropies differ by {difference.mean():.4f} nats on average, {difference.max():.3f} most"
    )
    from blt.formats.boundaries import restore_entropies, store_entropies

    kinds = {
        "bfloat16": quick,
        "float16 storage": restore_entropies(store_entropies(exact, "f16")),
        "8-bit storage": restore_entropies(store_entropies(exact, "u8")),
    }
    print("| mean patch, bytes | threshold, nats | " + " moved | ".join(kinds) + " moved |")
    print("|---" * (2 + len(kinds)) + "|")
    for target in TARGETS:
        threshold = np.quantile(exact[is_byte], 1 - 1 / target)
        wanted = exact > threshold
        moved = [
            ((found > threshold) ^ wanted)[is_byte].sum() / 2 / wanted[is_byte].sum()
            for found in kinds.values()
        ]
        cells = " | ".join(f"{share:.2%}" for share in moved)
        print(f"| {target} | {threshold:.3f} | {cells} |")


def read_documents(data: Path, max_bytes: int) -> list[np.ndarray]:
    from blt.formats.byte_shard import read_byte_shard

    tokens, total = [], 0
    for shard in sorted(data.glob("bytes-*")):
        for record in read_byte_shard(shard):
            if record.num_parts == 1 and total < max_bytes:
                tokens.append(record.tokens)
                total += len(record.tokens)
    return tokens


def run(model: Path, precision: str, tokens: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    from blt.engine import get_entropy_engine

    engine = get_entropy_engine(model, precision=precision)
    results = list(engine.run(enumerate(tokens)))
    return (
        np.concatenate([result.entropies for result in results]),
        np.concatenate([result.token_nats for result in results]).astype(np.float64),
    )


if __name__ == "__main__":
    main()
