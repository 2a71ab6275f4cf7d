"""Models from and to the formats of other libraries."""

import argparse
from typing import TYPE_CHECKING, Any

from blt.cli.command import Summary
from blt.cli.console import Console
from blt.cli.quiet import import_keras
from blt.commands.arguments import (
    number,
    place,
    positive_int,
)
from blt.dataset.storage import Place, place_errors
from blt.errors import UserError, near_names

if TYPE_CHECKING:
    import keras

NAME = "convert"
HELP = "models from and to the checkpoints of other libraries"
DESCRIPTION = """\
Makes a model file of a published checkpoint, or a checkpoint of a model file. FORMAT is

  hf     Hugging Face's transformers: a folder of config.json and model.safetensors (BltForCausalLM,
         or its patcher, which is our entropy model)
  meta   the paper's authors': a BLT or an entropy model, with params.json (read only)
  keras  our model file, NAME.keras

Weights are read from .safetensors (one file or several) and .npz. What cannot be computed exactly
is refused: an unknown value, and a weight that is missing, left over or of another shape. Fields of
a config that conversion does not know, or does not honour, are listed."""

_SOURCES = ("hf", "meta", "keras")
_TARGETS = ("hf", "keras")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for flag, formats, text in (
        ("--from", _SOURCES, "what is read: a folder or a file"),
        ("--to", _TARGETS, "what is written: a folder (hf), or a file (keras)"),
    ):
        parser.add_argument(
            flag,
            dest=flag[2:] + "_",
            nargs=2,
            required=True,
            metavar=("FORMAT", "PATH"),
            help=f"Format ({', '.join(formats)}) and {text}.",
        )
    parser.add_argument(
        "--compat",
        choices=("default", "none"),
        default="default",
        help="Whether the model reproduces the reference implementation also where documents meet "
        "and rows end, or does as our own models do there.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace what is there already.")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="Read .pth, .pt and .bin files, too, with PyTorch. Only tensors are taken, but give "
        "this only for files from a source that you trust.",
    )
    group = parser.add_argument_group("what a checkpoint of --from meta does not say")
    group.add_argument(
        "--entropy-model",
        type=place,
        metavar="FILE.keras",
        help="The entropy model that cuts a BLT's patches; it is kept inside.",
    )
    group.add_argument(
        "--threshold-nats",
        type=number,
        metavar="X",
        help="Of the BLT's patches; the config's patching_threshold, or 1.335442066192627, if not "
        "given.",
    )
    group.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="Of an entropy model: tokens that attention sees; the config's sliding_window, or all "
        "of them, if not given.",
    )


def run(args: argparse.Namespace, console: Console) -> Summary:
    """Converts; see `DESCRIPTION`."""
    source_format, source = _format_and_path("--from", args.from_, _SOURCES)
    target_format, target = _format_and_path("--to", args.to_, _TARGETS)
    _check_flags(args, source_format, target_format)
    _check_target(target_format, target, overwrite=args.overwrite)
    import_keras(verbose=console.verbose)
    console.show(f"convert: reading {source}")
    model, notes = _read(source_format, source, args)
    console.show(f"convert: writing {target}")
    notes += _write(target_format, target, model, source)
    console.end_progress()
    return _summarize(model, source_format, target, notes)


def _format_and_path(flag: str, given: list[str], formats: tuple[str, ...]) -> tuple[str, Place]:
    name, text = given
    if name not in formats:
        raise UserError(
            f"{flag} {name}: not a format; must be {', '.join(formats)}."
            + near_names(name, formats)
        )
    try:
        return name, place(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{flag} {name}: {error}") from error


def _check_flags(args: argparse.Namespace, source_format: str, target_format: str) -> None:
    """Refuses flags that would do nothing."""
    if source_format == target_format:
        raise UserError(f"--to {target_format}: --from has the same format; nothing to convert.")
    if source_format != "meta":
        for name in ("entropy_model", "threshold_nats", "window"):
            if getattr(args, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag}: only for --from meta; {source_format} says it itself.")
    if source_format == "keras" and (args.compat != "default" or args.trust_pickle):
        flag = "--trust-pickle" if args.trust_pickle else f"--compat {args.compat}"
        raise UserError(f"{flag}: only for --from hf and --from meta; leave it out.")


def _check_target(target_format: str, target: Place, *, overwrite: bool) -> None:
    """Refuses a target that has a wrong name, or is there already."""
    if target_format == "keras" and target.suffix != ".keras":
        raise UserError(f"--to keras {target}: a model file's name ends with .keras; name it so.")
    with place_errors(target):
        is_dir = target.is_dir()
        if target.exists() and is_dir != (target_format == "hf"):
            wanted = "folder" if target_format == "hf" else "file"
            raise UserError(
                f"--to {target_format} {target}: must be a {wanted}; choose another path."
            )
        is_taken = any(target.iterdir()) if is_dir else target.exists()
    if is_taken and not overwrite:
        raise UserError(
            f"--to {target_format} {target}: is there already. Choose another path, or give "
            "--overwrite."
        )


def _read(
    source_format: str, source: Place, args: argparse.Namespace
) -> tuple["keras.Model", list[str]]:
    from blt.model.serialization import load_entropy_model

    if source_format == "keras":
        return _read_keras(source), []
    from blt.conversion.checkpoint import read_checkpoint
    from blt.conversion.huggingface import read_hugging_face
    from blt.conversion.meta import MetaOptions, read_meta

    entropy_model = args.entropy_model and load_entropy_model(args.entropy_model)
    checkpoint = read_checkpoint(source, trust_pickle=args.trust_pickle)
    is_compatible = args.compat == "default"
    if source_format == "hf":
        return read_hugging_face(checkpoint, compat="hf" if is_compatible else None)
    options = MetaOptions(
        compat="meta" if is_compatible else None,
        window=args.window,
        entropy_model=entropy_model,
        threshold_nats=args.threshold_nats,
    )
    return read_meta(checkpoint, options)


def _read_keras(source: Place) -> "keras.Model":
    from blt.model import ByteLatentTransformer, EntropyModel
    from blt.model.serialization import load_model_file, read_model_class

    is_entropy_model = read_model_class(source) == EntropyModel.__name__
    return load_model_file(source, EntropyModel if is_entropy_model else ByteLatentTransformer)


def _write(target_format: str, target: Place, model: "keras.Model", source: Place) -> list[str]:
    if target_format == "hf":
        from blt.conversion.export import write_hugging_face

        return write_hugging_face(model, target, source=source)
    from blt.model.serialization import save_model

    save_model(model, target)
    return []


def _summarize(
    model: "keras.Model", source_format: str, target: Place, notes: list[str]
) -> Summary:
    from blt.model.serialization import fingerprint

    kind = type(model).__name__
    data: dict[str, Any] = {
        "stage": NAME,
        "output": str(target),
        "model": kind,
        "parameters": model.count_params(),
        "fingerprint": fingerprint(model),
        "notes": notes,
    }
    words = f"{kind} of {data['parameters']:,} parameters"
    if hasattr(model, "compat"):
        data["compat"] = model.compat
        words += f", compat {model.compat or 'none'}"
    return Summary(data, [f"convert: done. {words}, from {source_format} -> {target}", *notes])
