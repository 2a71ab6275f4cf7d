"""The command `blt`: finds the stage that is asked for and runs it.

A command's module, and what all commands share, are imported only when one is asked for, so that
help is quick.
"""

import importlib
import sys
from collections.abc import Sequence

from blt.version import __version__

# In the order of the way of the data.
_COMMANDS = {
    "run": ("pipelines.run", "the whole way: from a raw corpus to models, scores and a report"),
    "encode": ("pipelines.encode", "raw corpora to byte shards"),
    "decode": ("blt.commands.decode", "byte shards back to the corpus"),
    "train-entropy": ("blt.commands.train_entropy", "an entropy model, from byte shards"),
    "train-ngram": (
        "pipelines.train_ngram",
        "an n-gram entropy model, from byte shards: no GPU, seconds",
    ),
    "calibrate": ("blt.commands.calibrate", "the threshold that gives a wanted mean patch size"),
    "patch": ("pipelines.patch", "patch boundaries of byte shards, by an entropy model or a rule"),
    "repatch": ("pipelines.repatch", "boundaries of another rule or threshold, without a model"),
    "export": ("pipelines.export", "byte shards and entropies to files for Meta's trainer"),
    "pack": ("pipelines.pack", "training shards, from byte shards and their boundaries"),
    "train": ("blt.commands.train", "a Byte Latent Transformer, from training shards"),
    "score": ("pipelines.score", "bits per byte of documents"),
    "convert": ("blt.commands.convert", "models from and to the checkpoints of other libraries"),
    "report": ("blt.commands.report", "one HTML page about training runs, boundaries and scores"),
    "inspect": ("blt.commands.inspect", "what a folder or file holds, in words"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `blt` and returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"blt {__version__}")
        return 0
    name = argv[0]
    if name not in _COMMANDS:
        from blt.errors import near_names

        hint = near_names(name, _COMMANDS)
        print(f"blt: no command {name!r}.{hint} (see blt --help)", file=sys.stderr)
        return 2
    from blt.cli import command

    try:
        module = importlib.import_module(_COMMANDS[name][0])
    except KeyboardInterrupt:
        print(f"blt {name}: interrupted before it began.", file=sys.stderr)
        return command.INTERRUPTED
    return command.main(module, argv[1:])


def _overview() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: blt COMMAND ...",
            "",
            "From raw corpora to patches, a Byte Latent Transformer, and bits per byte.",
            "",
            *lines,
            "",
            "`blt COMMAND --help` explains each. Exit status: 0 done; 1 the work failed (what is",
            "done is kept); 2 wrong use, or refused before any work; 130 interrupted.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
