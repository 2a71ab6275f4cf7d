"""Beam's own flags: which ones there are, the runner that they ask for, and resource hints.

Beam is imported inside the functions: by then the log levels are set, and help needs no Beam.
"""

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from blt.commands.arguments import byte_size
from blt.engine.options import num_cores
from blt.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_LOCAL_RUNNERS = (None, "", "DirectRunner", "FnApiRunner")


def split_beam_flags(flags: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Separates Beam's flags from those that nobody knows.

    Returns:
      The flags that Beam knows (with their values), the rest, and the names of all Beam flags.

    Raises:
      UserError: a value of one of Beam's flags is wrong, or there is no such runner.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers: list[Any] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    parser = parsers[0]
    parser.error = _refuse  # its own prints all of Beam's flags
    values, unknown = parser.parse_known_args(flags)
    left = list(unknown)
    known = []
    for flag in flags:
        if left and flag == left[0]:
            left.pop(0)
        else:
            known.append(flag)
    _check_runner(values.runner)
    if (workers := values.direct_num_workers) < 0:
        raise UserError(
            f"--direct_num_workers {workers}: a number of processes expected, or 0 for one a core."
        )
    return known, unknown, sorted(parser._option_string_actions)


def _refuse(message: str) -> NoReturn:
    raise UserError(f"one of Beam's flags: {message}")


def _check_runner(name: str | None) -> None:
    if name in _LOCAL_RUNNERS:
        return
    from apache_beam.runners.runner import create_runner

    try:
        create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--runner {name}: cannot be had ({reason}).") from error


def make_options(flags: list[str], *, verbose: bool = False) -> "PipelineOptions":
    """Returns pipeline options in which several workers means several processes."""
    from apache_beam.options.pipeline_options import (
        DirectOptions,
        PipelineOptions,
        SetupOptions,
        WorkerOptions,
    )

    options = PipelineOptions(flags)
    options.view_as(SetupOptions).save_main_session = False  # all of our code is in packages
    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers != 1 and direct.direct_running_mode == "in_memory":
        direct.direct_running_mode = "multi_processing"
    worker = options.view_as(WorkerOptions)
    if is_local(options) and not verbose and worker.default_sdk_harness_log_level is None:
        worker.default_sdk_harness_log_level = "ERROR"
    return options


def is_local(options: "PipelineOptions") -> bool:
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner in _LOCAL_RUNNERS


def runs_in_this_process(options: "PipelineOptions") -> bool:
    from apache_beam.options.pipeline_options import DirectOptions

    mode = options.view_as(DirectOptions).direct_running_mode
    return is_local(options) and mode != "multi_processing"


def count_workers(options: "PipelineOptions") -> int | None:
    """Returns how many processes work; None for a runner that decides for itself."""
    from apache_beam.options.pipeline_options import DirectOptions

    if not is_local(options):
        return None
    if runs_in_this_process(options):
        return 1
    return options.view_as(DirectOptions).direct_num_workers or num_cores()  # 0 means that


def place_engines(flags: list[str]) -> tuple[bool, int | None]:
    """Says whether engines run in this process, and how many threads one of them should take.

    Returns:
      For worker processes of the local runner, their share of this machine's cores. Other runners
      start a process for every core: one. In this process: None, for all cores.
    """
    options = make_options(flags)
    if runs_in_this_process(options):
        return True, None
    workers = count_workers(options)
    return False, 1 if workers is None else max(1, num_cores() // workers)


def make_runner(options: "PipelineOptions") -> Any:
    """Returns the runner to give to `beam.Pipeline`.

    The local runner is FnApiRunner by name: "DirectRunner" would try to download another one
    first. Built as DirectRunner builds it, it passes the options on to its workers.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    if not is_local(options):
        return options.view_as(StandardOptions).runner
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    return fn_runner.FnApiRunner(
        provision_info=fn_runner.ExtendedProvisionInfo(
            beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        )
    )


def add_resource_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --accelerator and --min-ram, for the step that runs a model."""
    group = parser.add_argument_group(
        "workers that run the model (for runners that choose machines; the local one does not)"
    )
    group.add_argument(
        "--accelerator",
        metavar="HINT",
        help="What the step that runs the model needs, as Beam writes it: "
        '"type:nvidia-l4;count:1;install-nvidia-driver". No other step asks for it.',
    )
    group.add_argument(
        "--min-ram",
        type=byte_size,
        metavar="BYTES",
        help="Memory that a worker of that step must have, for example 16GB.",
    )


def read_resource_hints(args: argparse.Namespace) -> dict[str, str | int]:
    """Returns Beam's resource hints for the step that runs a model.

    Raises:
      UserError: the accelerator is not written as Beam has it, or is asked for twice.
    """
    hints: dict[str, str | int] = {}
    if args.accelerator is not None:
        parts = [part.partition(":") for part in args.accelerator.split(";")]
        if parts[0][0] != "type" or not parts[0][2]:
            raise UserError(
                f"--accelerator {args.accelerator}: does not begin with a type; write it as "
                '"type:nvidia-l4;count:1;install-nvidia-driver".'
            )
        if any("worker_accelerator" in flag for flag in args.beam_flags):
            raise UserError(
                "--accelerator: cannot go with Dataflow's worker_accelerator, which gives one to "
                "every worker. Leave that option out."
            )
        hints["accelerator"] = args.accelerator
    if args.min_ram is not None:
        hints["min_ram"] = args.min_ram
    return hints
