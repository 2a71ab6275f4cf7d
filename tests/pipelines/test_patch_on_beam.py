"""What `blt patch` asks of Beam, and what Beam tells it: hints, metrics, models loaded."""

import json
import os
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest

from blt.cli import command
from blt.dataset.stage import Stage, make_units
from pipelines import beam_flags, patch
from pipelines.beam_flags import make_options
from pipelines.run_units import build_pipeline, run_stage
from pipelines.transforms import WorkOnUnits
from tests.shared import dataset_files

ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
HINTS = {"accelerator": ACCELERATOR, "min_ram": 16_000_000_000}
ACCELERATOR_URN = "beam:resources:accelerator:v1"
MIN_RAM_URN = "beam:resources:min_ram_bytes:v1"


def run(*argv):
    return command.main(patch, [str(arg) for arg in argv])


@pytest.fixture(scope="module")
def argv(small_bytes, small_entropy_model):
    return [
        *("--data", small_bytes, "--entropy-model", small_entropy_model),
        *("--threshold-nats", "3"),
    ]


def no_work(unit, output, progress):
    raise NotImplementedError


def make_stage(output, run_unit=no_work):
    stage = Stage(
        kind="boundaries",
        output=Path(output),
        config={},
        run_unit=run_unit,
        shard_patterns=("patches-*.parquet",),
    )
    return stage, make_units(stage, [{}], [1])


def hints_by_step(proto):
    """Returns the resource hints of every step that runs code of ours: name -> hints."""
    components = proto.components
    return {
        transform.unique_name: dict(
            components.environments[transform.environment_id].resource_hints
        )
        for transform in components.transforms.values()
        if transform.spec.urn == "beam:transform:pardo:v1"
    }


def check_hints(steps):
    (worker,) = [name for name in steps if "_WorkOnUnit" in name]
    assert steps.pop(worker) == {
        ACCELERATOR_URN: ACCELERATOR.encode(),
        MIN_RAM_URN: b"16000000000",
    }
    assert len(steps) >= 3  # the plan, its shuffle, the manifest
    assert set(map(len, steps.values())) == {0}


def test_only_the_step_that_runs_the_model_asks_for_an_accelerator(tmp_path):
    pipeline = beam.Pipeline()
    stage, units = make_stage(tmp_path)
    build_pipeline(pipeline, stage, units, lambda stage, _: WorkOnUnits(stage, HINTS))
    check_hints(hints_by_step(pipeline.to_runner_api()))


def test_the_flags_reach_that_step(argv, tmp_path, monkeypatch):
    def remember(pipeline, *args):
        build_pipeline(pipeline, *args)
        protos.append(pipeline.to_runner_api())

    protos = []
    monkeypatch.setattr("pipelines.run_units.build_pipeline", remember)
    flags = ["--accelerator", ACCELERATOR, "--min-ram", "16GB"]
    argv = [*argv, "--precision", "float32"]
    assert run(*argv, *flags, "--output", tmp_path / "patches") == 0
    check_hints(hints_by_step(protos[0]))
    assert run(*argv, "--output", tmp_path / "plain") == 0
    assert set(map(len, hints_by_step(protos[1]).values())) == {0}
    # Where the work runs shows in nothing that is written.
    assert dataset_files(tmp_path / "patches") == dataset_files(tmp_path / "plain")


def test_workers_with_accelerators_take_bfloat16(argv, tmp_path):
    argv += ["--accelerator", ACCELERATOR, "--output", tmp_path / "patches"]
    assert run(*argv) == 0
    assert json.loads((tmp_path / "patches/_manifest.json").read_text())["config"]["precision"] == (
        "bfloat16"
    )
    metadata = pq.read_schema(tmp_path / "patches/patches-00000-000.parquet").metadata
    assert metadata[b"precision"] == b"bfloat16"


@pytest.mark.parametrize(
    ("flags", "in_this_process", "num_threads"),
    [
        ([], True, None),
        (["--direct_num_workers", "2", "--direct_running_mode", "multi_threading"], True, None),
        (["--direct_num_workers", "2"], False, 4),
        (["--direct_num_workers", "0"], False, 1),
        (["--direct_num_workers", "99"], False, 1),
        (["--runner", "PortableRunner"], False, 1),
    ],
)
def test_engines_share_the_cores(monkeypatch, flags, in_this_process, num_threads):
    monkeypatch.setattr(beam_flags, "num_cores", lambda: 8)
    assert beam_flags.place_engines(flags) == (in_this_process, num_threads)


def test_dataflow_takes_the_hints(tmp_path):
    pytest.importorskip("google.auth", reason="needs apache-beam[gcp]")
    flags = ["--runner=DataflowRunner", "--project=my-project", "--region=us-central1"]
    flags += ["--temp_location=gs://bucket/tmp", "--dry_run=True", "--no_auth"]
    pipeline = beam.Pipeline(runner="DataflowRunner", options=make_options(flags))
    stage, units = make_stage(tmp_path)
    build_pipeline(pipeline, stage, units, lambda stage, _: WorkOnUnits(stage, HINTS))
    check_hints(hints_by_step(pipeline.run().job.proto_pipeline))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accelerator", "nvidia-l4"], "--accelerator nvidia-l4: does not begin with a type"),
        (["--min-ram", "16 apples"], "must be a number of bytes such as"),
        (
            ["--accelerator", ACCELERATOR, "--dataflow_service_options", "worker_accelerator=x"],
            "cannot go with Dataflow's worker_accelerator",
        ),
    ],
)
def test_hints_that_will_not_do_are_refused(argv, tmp_path, capsys, flags, message):
    assert run(*argv, *flags, "--output", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_rule_without_a_model_tells_of_none(small_bytes, tmp_path, capsys):
    assert run("--data", small_bytes, "--rule", "space", "--output", tmp_path / "patches") == 0
    assert "the model" not in capsys.readouterr().out


class _CountLoads:
    """`patch`'s own work on a unit; notes in a file which process loads a model."""

    def __init__(self, work, log):
        self.work, self.log = work, log

    def __call__(self, unit, output, progress):
        from blt.engine import loading

        original = loading._load

        def load(*arguments):
            with self.log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return original(*arguments)

        loading._load = load
        try:
            return self.work(unit, output, progress)
        finally:
            loading._load = original


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_process_loads_the_model_once_and_the_summary_tells_what_it_cost(
    argv, tmp_path, monkeypatch, capsys, workers
):
    from blt.engine import loading

    def with_log(stage, *args, **kwargs):
        object.__setattr__(stage, "run_unit", _CountLoads(stage.run_unit, tmp_path / "log"))
        if workers == "1":
            loading._engines.clear()  # the launcher has loaded it, in the same process
        return run_stage(stage, *args, **kwargs)

    monkeypatch.setattr(patch, "run_stage", with_log)
    run_it = [*argv, "--output", tmp_path / "out", "--json", "--direct_num_workers", workers]
    assert run(*run_it) == 0
    loads = (tmp_path / "log").read_text().split()
    assert 1 <= len(loads) == len(set(loads)) <= int(workers)
    assert (str(os.getpid()) in loads) == (workers == "1")
    check_summary(json.loads(capsys.readouterr().out))
    for path in (tmp_path / "out").rglob("*.json"):
        assert "padding" not in path.read_text()
        assert "device" not in path.read_text()
    # A run that has nothing to do has nothing to tell.
    assert run(*run_it) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["how"], again["inference"]) == ("already done", None)


def check_summary(summary):
    inference = summary["inference"]
    assert (inference["documents"], inference["bytes"]) == (60, summary["bytes"])
    assert inference["tokens"] == summary["tokens"]
    assert inference["padding"] > 0
    places = inference["tokens"] + inference["padding"]
    assert inference["padding_share"] == inference["padding"] / places
    assert inference["device_seconds"] > 0
    speed = inference["bytes"] / inference["device_seconds"]
    assert inference["bytes_per_second"] == pytest.approx(speed)
