"""Writes docs/formats.md from a finished quickstart: schema and first row of every artefact, as
plain pyarrow, tf.data and DuckDB read them. Nothing of this project is imported.

    python docs/make_formats.py quickstart > docs/formats.md
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import duckdb
import pyarrow.parquet as pq
import tensorflow as tf

WIDTH = 96

INTRO = """\
# Formats, as a plain reader sees them

Made by `python docs/make_formats.py quickstart` from a quickstart's output, with `pyarrow`, `tf.data` and
DuckDB alone. Long values are cut with `…`.

Token ids (vocabulary 260): `0` PAD, `1` BOS, `2` EOS, `3` SEP, byte `b` is `b + 4`. A document is
`BOS bytes EOS`. Entropies are in nats, scores in bits per byte.
"""

SECTIONS = {
    "bytes": (
        "Byte shards",
        "`bytes-UUUUU-RRR.tfrecord`: unit of the plan, and roll. One `tf.train.Example` a document, or a "
        "part of one that is longer than `--max-document-bytes`: then BOS is in part 0 only and EOS in the "
        "last. A document's parts follow one another in one shard. `meta` (bytes, strict JSON of passed-through "
        "fields) is there if there are any.",
    ),
    "patches": (
        "Boundaries",
        "`patches-UUUUU-RRR.parquet`: row *i* is about record *i* of the byte shard of the same number. "
        "`patch_lengths` sum to `num_tokens`; BOS is a patch of its own. `nats` and `eos_nats` are the "
        "entropy model's own cross-entropy of the bytes and of EOS. With `--keep-entropies` there is a "
        "column `entropies`. The rule and the model are in the file's metadata, and so is how many patches "
        "begin inside a UTF-8 character. `blt repatch` writes the same format.",
    ),
    "train": (
        "Training shards",
        "`train-NNNNN.tfrecord` and `valid-NNNNN.tfrecord`: packed sequences. `segment_ids` tell which "
        "document of the sequence, from 1, a token belongs to; `doc_ids` name them. A document that does "
        "not fit goes on in the next sequence.",
    ),
    "scores-blt": (
        "Scores",
        "`scores-UUUUU-RRR.parquet`: one row a document. `bits_per_byte` is null for an empty document. "
        "`_summary.json` holds the corpus figures: Σ bits / Σ bytes, and under `by` those of the groups that "
        "`--by` asks for: kept fields, and the input as `source` (`input_source` where a kept field is called "
        "`source`), which is the default. Of each name the 1,000 groups with the most bytes are shown, the rest "
        "together as `other` ([architecture.md](architecture.md#bits-per-byte)).",
    ),
}

# No quickstart makes these; tests/pipelines/test_export.py reads them as a stranger would.
META_ARROW = """\
## Arrow files for Meta's trainer

`blt export --to meta-arrow`, from byte shards and boundaries with `--keep-entropies`: for each byte shard
`bytes-UUUUU-RRR.shard_00.arrow` (Arrow IPC file, not compressed) and, once all of them are there, an empty
`bytes-UUUUU-RRR.shard_00.arrow.complete` beside each.

```
sample_id: string         the document's id
text: string              the whole document, its parts joined
entropies: list<float16>  nats, one for each of BOS, the UTF-8 bytes of text, EOS
-- format_version, kind, entropy_model, byte_shard_sha256, entropy_unit
```

```python
pyarrow.dataset.dataset(sorted(map(str, Path("arrow").glob("*.arrow"))), format="arrow").to_table()
```

Entropy *i* is about the token after token *i*, as that trainer counts: a patch begins at token *j* ≥ 2 iff entropy
*j* − 1 is above the threshold. Our boundaries say the same about token *j* itself, so all entries move down by one. The
last, about what follows EOS, decides nothing and is 0. From `--keep-entropies f16` the values are the stored
ones; from `u8` they are steps of 0.022 nats. float16 has steps of 0.001 near 1.3 nats, so compare in float32 with
the threshold that was used, and expect ties to fall as `blt patch` had them.

That trainer has no place for bytes that are not UTF-8: such documents are in `_rejects.parquet` as
`invalid_utf8`, by byte shard and record, and more than `--max-lost-fraction` of them fail the job. So are documents
of 2 GiB and more (`too_long`), which no Arrow string holds. Memory is a megabyte of text, or one document.

What is ours to choose, since nothing published fixes it: one shard number (`00`) for each byte shard, the byte
shard's name as the name of the data set before it, no compression, and zero as the last entropy. Rename the part
before `.shard_` if your configuration expects another.
"""

FOLDERS = """## Folders as tables

Shards of scores and boundaries are the only Parquet files in their folder whose names begin with no underscore; all else begins
with one, and readers of folders pass over it:

```python
pandas.read_parquet("scores")
pyarrow.parquet.read_table("scores")
duckdb.sql("SELECT * FROM read_parquet('scores/*.parquet')")
spark.read.parquet("scores")
datasets.load_dataset("scores", data_files="*.parquet", split="train")
```

`datasets` wants `data_files`, since it passes over names with a dot alone.
"""


def main(root: Path) -> None:
    print(INTRO)
    for folder, (title, text) in SECTIONS.items():
        manifest = json.loads((root / folder / "_manifest.json").read_text())
        shard = root / folder / manifest["shards"][0]["name"]
        print(f"## {title}\n\n{text}\n")
        if shard.suffix == ".parquet":
            show_parquet(shard)
        else:
            show_tfrecord(shard)
    print(META_ARROW)
    print(
        "## Rejects\n\n`_rejects.parquet`, always written by `encode` and `export`; `reason` is one of a closed list"
    )
    print("(`blt/dataset/rejects.py`).\n")
    show_parquet(root / "bytes" / "_rejects.parquet")
    print("## Sources\n\n`_sources.parquet`, by `encode`: what became of each input file")
    print("([encode.md](encode.md#accounting)).\n")
    show_parquet(root / "bytes" / "_sources.parquet")
    print(FOLDERS)
    print("## Manifest\n\n`_manifest.json`, written last in every dataset:\n")
    manifest = json.loads((root / "patches" / "_manifest.json").read_text())
    block(json.dumps(manifest, indent=2), "json")
    print(
        "`_plan.json` holds what a run must not change (config, fingerprints, parents), a token of the run that made it, and the units; of many\n"
        "units, the names of the parts that hold them (`_units/plan-TOKEN-NNNNN.json`). `_units/NNNNN.json`, the marker of a unit, holds what it\n"
        "gave, and size and version of each file that it made. Both serve resuming only, and are not the same from run to run.\n"
        "`_dealt/` holds what `blt pack` shuffles, until it is done.\n"
    )
    print(
        "## Models\n\n`entropy.keras` and `blt/model.keras` are Keras 3 files (a zip of JSON and HDF5),"
    )
    print(
        "read with `blt.load_model(path)`, which checks the file first, or after `import blt` with"
    )
    print(
        "`keras.models.load_model(path)`. `*.history.jsonl` is the training history, one JSON object a line:\n"
    )
    block((root / "blt" / "history.jsonl").read_text().splitlines()[-1], "json")
    print("## Calibration\n\n`threshold.yaml`, which `blt patch --calibration` takes:\n")
    block((root / "threshold.yaml").read_text().strip(), "yaml")


def show_parquet(path: Path) -> None:
    file = pq.ParquetFile(path)
    print(f"`pyarrow.parquet.ParquetFile({path.name!r})`, schema, metadata and first row:\n")
    schema = file.schema_arrow
    lines = [f"{field.name}: {field.type}" for field in schema]
    for key, value in (schema.metadata or {}).items():
        if not key.startswith((b"ARROW", b"pandas")):
            lines.append(f"-- {key.decode()}: {cut(value.decode())}")
    rows = file.read().slice(0, 1).to_pylist()
    lines += [f"{name} = {cut(repr(value))}" for row in rows for name, value in row.items()]
    block("\n".join(lines))
    relation = duckdb.sql(f"SELECT * FROM read_parquet('{path}') LIMIT 1")
    print("DuckDB, `DESCRIBE SELECT * FROM read_parquet(…)`:\n")
    block("\n".join(f"{n}: {t}" for n, t in zip(relation.columns, relation.types, strict=True)))


def show_tfrecord(path: Path) -> None:
    print(f"`tf.data.TFRecordDataset({path.name!r})`, first record as `tf.train.Example`:\n")
    record = next(iter(tf.data.TFRecordDataset(str(path)))).numpy()
    example = tf.train.Example.FromString(record)
    lines = []
    for name in sorted(example.features.feature):
        feature = example.features.feature[name]
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value)
        lines.append(f"{name}: {kind}[{len(values)}] = {cut(repr(values))}")
    block("\n".join(lines))


def cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def block(text: str, language: str = "") -> None:
    print(f"```{language}\n{text}\n```\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
