"""A stage that copies text in upper case, to test what all stages share."""

import dataclasses
import functools
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blt.dataset import stage as stages
from blt.dataset import working
from blt.dataset.finishing import finish
from blt.dataset.manifest import read_manifest
from blt.dataset.plan_file import read_plan, read_plan_version, read_unit
from blt.dataset.stage import Stage, make_units
from blt.dataset.storage import atomic_path, sha256_file, shared_use
from blt.dataset.units import ShardInfo, Unit, UnitResult, no_progress
from blt.dataset.working import work_on
from blt.errors import UserError, WorkError


def shout(unit: Unit, output, progress) -> UnitResult:
    text = unit.payload["text"]
    if text == "boom":
        raise WorkError("in.txt: cannot be shouted.")
    path = output / f"loud-{unit.index:05d}-000.txt"
    with atomic_path(path) as temporary:
        temporary.write_text(text.upper())
    progress(len(text))
    shard = ShardInfo(
        name=path.name,
        documents=1,
        bytes=len(text),
        tokens=len(text) + 2,
        sha256=sha256_file(path),
    )
    return UnitResult(shards=(shard,), counts={"documents": 1, "records": 1, "bytes": len(text)})


def make_stage(output, texts=("a", "bb", "ccc"), **changes):
    stage = Stage(
        kind="byte_shards",
        output=output,
        config={"loudness": 1},
        run_unit=shout,
        shard_patterns=("loud-*.txt",),
        reads_foreign_data=True,
    )
    stage = dataclasses.replace(stage, **changes)
    return stage, make_units(stage, [{"text": t} for t in texts], [len(t) for t in texts])


def run(stage, units, **kwargs):
    stage.output.mkdir(exist_ok=True, parents=True)
    with shared_use(stage.output):
        stage, pending = stages.start(stage, units, **kwargs)
        for unit in pending:
            work_on(stage, unit, no_progress)
        return finish(stage, units)


def files(folder):
    """Returns the files of a dataset, without what tells of the run that made it."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "_plan.json" and p.parent.name != "_units"
    }


def test_a_run_ends_with_a_manifest_that_names_every_shard(tmp_path):
    manifest = run(*make_stage(tmp_path / "out"))
    assert [shard.name for shard in manifest.shards] == [f"loud-0000{i}-000.txt" for i in range(3)]
    assert manifest.totals["documents"] == 3
    assert manifest.totals["bytes"] == 6
    assert read_manifest(tmp_path / "out", "byte_shards") == manifest


def test_a_resumed_run_does_only_what_is_missing_and_ends_the_same(tmp_path):
    run(*make_stage(tmp_path / "whole"))
    stage, units = make_stage(tmp_path / "killed")
    stage, pending = stages.start(stage, units)
    work_on(stage, pending[0], no_progress)
    # What a kill leaves: a temporary file, and a shard whose unit has no marker yet.
    (stage.output / ".tmp-dead-loud-00001-000.txt").write_text("B")
    (stage.output / "loud-00002-007.txt").write_text("half of unit 2")
    with shared_use(stage.output):
        stage, pending = stages.start(stage, units)
        assert [unit.index for unit in pending] == [1, 2]
        for unit in pending:
            work_on(stage, unit, no_progress)
        finish(stage, units)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_what_only_the_end_depends_on_is_made_anew_alone(tmp_path):
    def note(output, results):
        (output / "note.txt").write_text("noted")

    changes = {"extra_files": ("note.txt",), "before_manifest": note}
    stage, units = make_stage(tmp_path / "out", finishing={"by": ["a"]}, **changes)
    assert run(stage, units).config == {"loudness": 1, "by": ["a"]}
    assert stages.finished_manifest(stage, units) is not None
    other, same_units = make_stage(tmp_path / "out", finishing={"by": ["b"]}, **changes)
    assert same_units == units
    assert stages.finished_manifest(other, units) is None
    assert stages.start(other, units)[1] == []
    assert finish(other, units).config["by"] == ["b"]


def test_a_finished_unit_whose_shard_was_altered_is_done_again(tmp_path):
    stage, units = make_stage(tmp_path / "out")
    run(stage, units)
    (stage.output / "_manifest.json").unlink()
    (stage.output / "loud-00001-000.txt").write_text("XX")
    assert [unit.index for unit in stages.start(stage, units)[1]] == [1]


def test_a_finished_stage_is_recognised(tmp_path):
    stage, units = make_stage(tmp_path / "out")
    assert stages.finished_manifest(stage, units) is None
    manifest = run(stage, units)
    assert stages.finished_manifest(stage, units) == manifest


def test_another_config_is_refused_by_name_unless_told_to_overwrite(tmp_path):
    run(*make_stage(tmp_path / "out"))
    stage, units = make_stage(tmp_path / "out", config={"loudness": 2})
    with pytest.raises(UserError, match=r"--loudness \(1, now 2\).*--overwrite"):
        stages.start(stage, units)
    manifest = run(stage, units, overwrite=True)
    assert manifest.config == {"loudness": 2}


def test_of_a_setting_with_parts_those_that_differ_are_named(tmp_path):
    run(*make_stage(tmp_path / "out", config={"spec": {"window": 32, "layers": {"a": 1, "b": 2}}}))
    stage, units = make_stage(tmp_path / "out", config={"spec": {"layers": {"a": 1, "b": 3}}})
    with pytest.raises(UserError) as error:
        stages.finished_manifest(stage, units)
    assert "differs in --spec layers b (2, now 3); --spec window (32, now None). " in str(
        error.value
    )


def test_changed_inputs_are_refused(tmp_path):
    run(*make_stage(tmp_path / "out"))
    with pytest.raises(UserError, match="its input files"):
        stages.start(*make_stage(tmp_path / "out", texts=("a", "bb")))


def test_a_folder_of_other_files_is_never_touched(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    stage, units = make_stage(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"holds other files \(precious.txt"):
            stages.start(stage, units, overwrite=overwrite)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_failing_unit_is_named_and_the_others_are_kept(tmp_path):
    stage, units = make_stage(tmp_path / "out", texts=("a", "boom", "ccc"))
    with pytest.raises(WorkError, match=r"1 of 3 units failed: unit 1: in.txt: cannot be shouted"):
        run(stage, units)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    assert [unit.index for unit in stages.start(stage, units)[1]] == [1]


def test_a_disk_too_full_for_the_reason_still_tells_it(tmp_path, monkeypatch):
    stage, units = make_stage(tmp_path / "out", texts=("boom",))
    stage, (unit,) = stages.start(stage, units)

    def no_room(path, value):
        raise WorkError(f"{path}: cannot be written (No space left on device).")

    monkeypatch.setattr(working, "write_json", no_room)
    with pytest.raises(WorkError, match=r"unit 0: in.txt: cannot be shouted. Run the same command"):
        work_on(stage, unit, no_progress)


def test_what_speaks_of_all_shards_goes_before_one_is_made_anew(tmp_path):
    def mark(output, results):
        (output / "all.txt").write_text(str(results.num_units))

    stage, units = make_stage(tmp_path / "out", extra_files=("all.txt",), before_manifest=mark)
    run(stage, units)
    (stage.output / "loud-00001-000.txt").unlink()
    assert stages.finished_manifest(stage, units) is None
    stages.start(stage, units)
    assert not (stage.output / "all.txt").exists()


def test_records_that_are_not_accounted_for_stop_the_manifest(tmp_path):
    def lose_one(unit, output, progress):
        result = shout(unit, output, progress)
        return dataclasses.replace(result, counts={**result.counts, "records": 2})

    with pytest.raises(WorkError, match="6 records were read, but 3 are accounted for"):
        run(*make_stage(tmp_path / "out", run_unit=lose_one))


def test_too_many_rejects_fail_and_a_higher_limit_goes_on_without_new_work(tmp_path):
    def reject_one(unit, output, progress):
        result = shout(unit, output, progress)
        return dataclasses.replace(result, counts={"documents": 1, "records": 2, "rejects": 1})

    stage, units = make_stage(tmp_path / "out", run_unit=reject_one)
    message = r"lost 50 % of records \(3 of 6\), more than --max-lost-fraction 0\.01"
    with pytest.raises(WorkError, match=message):
        run(stage, units)
    lenient, units = make_stage(tmp_path / "out", run_unit=reject_one, max_lost_fraction=0.5)
    assert stages.start(lenient, units)[1] == []
    assert finish(lenient, units).totals["rejects"] == 3


def test_a_manifest_whose_shard_is_gone_is_no_longer_trusted(tmp_path):
    stage, units = make_stage(tmp_path / "out")
    run(stage, units)
    (stage.output / "loud-00000-000.txt").unlink()
    assert stages.finished_manifest(stage, units) is None
    assert [unit.index for unit in stages.start(stage, units)[1]] == [0]


def test_a_shard_name_in_a_manifest_cannot_lead_out_of_the_folder(tmp_path):
    stage, units = make_stage(tmp_path / "out")
    run(stage, units)
    path = stage.output / "_manifest.json"
    value = json.loads(path.read_text())
    value["shards"][0]["name"] = "../../etc/passwd"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="not a plain file name"):
        read_manifest(stage.output)


def test_a_stage_that_grows_does_only_its_new_units_and_is_no_dataset_until_then(tmp_path):
    run(*make_stage(tmp_path / "out", grows=True))
    stage, units = make_stage(tmp_path / "out", texts=("a", "bb", "ccc", "dddd"), grows=True)
    assert stages.finished_manifest(stage, units) is None
    assert [unit.index for unit in stages.start(stage, units)[1]] == [3]
    assert not (stage.output / "_manifest.json").exists()
    assert run(stage, units).totals["documents"] == 4


def test_what_was_finished_cannot_be_another_unit(tmp_path):
    run(*make_stage(tmp_path / "out", grows=True))
    for texts in (("a", "xx", "ccc"), ("a", "bb")):
        stage, units = make_stage(tmp_path / "out", texts=texts, grows=True)
        with pytest.raises(UserError, match="its input files"):
            stages.start(stage, units)


def test_files_beside_the_shards_are_in_the_manifest_and_made_again_when_gone(tmp_path):
    def mark(output, results):
        (output / "all.txt").write_text(str(results.num_units))

    stage, units = make_stage(tmp_path / "out", extra_files=("all.txt",), before_manifest=mark)
    manifest = run(stage, units)
    assert manifest.files == {
        name: sha256_file(stage.output / name) for name in ("_rejects.parquet", "all.txt")
    }
    (stage.output / "all.txt").unlink()
    assert stages.finished_manifest(stage, units) is None
    assert run(stage, units) == manifest


def test_overwriting_removes_the_work_folders_too(tmp_path):
    stage, units = make_stage(tmp_path / "out", work_folders=("digests",))
    run(stage, units)
    (stage.output / "digests").mkdir()
    run(stage, units, overwrite=True)
    assert not (stage.output / "digests").exists()


def test_what_is_only_told_is_in_the_manifest_but_changes_nothing(tmp_path):
    run(*make_stage(tmp_path / "out", told={"input": ["a"]}))
    stage, units = make_stage(tmp_path / "out", told={"input": ["b"]})
    assert stages.finished_manifest(stage, units).config == {"input": ["a"], "loudness": 1}


class _Killed(BaseException):
    pass


def _as_method(kill, method):
    return lambda self, *args, **kwargs: kill(method, self, *args, **kwargs)


def test_killed_at_any_moment_of_its_start_the_same_command_goes_on(tmp_path, monkeypatch):
    """What touches the disk is let through so many times, and then the run is gone."""
    expected = files(run(*make_stage(tmp_path / "standard")).folder)
    moments = 0
    for moment in range(50):
        output = tmp_path / f"out-{moment}"
        stage, units = make_stage(output)
        left = moment

        def kill(function, *args, **kwargs):
            nonlocal left
            if left == 0:
                raise _Killed
            left -= 1
            return function(*args, **kwargs)

        with monkeypatch.context() as patched:
            for name in ("replace", "fsync", "link", "makedirs"):
                patched.setattr(os, name, functools.partial(kill, getattr(os, name)))
            for name in ("mkdir", "touch"):
                method = getattr(Path, name)
                patched.setattr(Path, name, _as_method(kill, method))
            patched.setattr(Path, "unlink", lambda *_, **__: None)  # the dead do not tidy up
            try:
                stages.start(stage, units)
            except _Killed:
                moments += 1
        assert files(run(stage, units).folder) == expected
        if left:
            break
    assert moments >= 5


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "\n    }\n", "  ]", "caf\xe9 \udcff", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["units", "b", "{"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from("ab"), JSON_VALUES), max_size=4), JSON_VALUES)
def test_a_plan_is_read_back(tmp_path, payloads, value):
    stage, _ = make_stage(tmp_path / "out", config={"any": value}, grows=True)
    units = make_units(stage, payloads, [7] * len(payloads))
    stages.start(stage, units, overwrite=True)
    assert read_plan(stage.output) == units
    assert [unit.payload for unit in units] == payloads
    version = read_plan_version(stage.output)
    assert [read_unit(stage.output, version, unit.index) for unit in units] == units
    plan = json.loads((tmp_path / "out/_plan.json").read_bytes())
    assert plan.pop("run")
    assert plan == {**stage.identity(), "units": [unit.to_json() for unit in units]}


def test_units_of_a_large_plan_lie_in_parts_that_go_with_it(tmp_path):
    texts = [str(number) for number in range(2500)]
    stage, units = make_stage(tmp_path / "out", texts=texts, grows=True)
    started, pending = stages.start(stage, units[:-1])
    assert (pending, len(list((tmp_path / "out/_units").iterdir()))) == (units[:-1], 3)
    assert (tmp_path / "out/_plan.json").stat().st_size < 2000
    for index in (0, 999, 1000, 2498):
        assert read_unit(stage.output, started.plan_version, index) == units[index]
    assert read_plan(stage.output) == units[:-1]
    run(stage, units)
    parts = [path.name for path in (tmp_path / "out/_units").iterdir() if "plan-" in path.name]
    assert len(parts) == 3
    assert all(name in (tmp_path / "out/_plan.json").read_text() for name in parts)
    (tmp_path / "out/_units" / parts[0]).unlink()
    with pytest.raises(UserError, match="plan-.*No such file"):
        stages.finished_manifest(stage, units)


@pytest.mark.parametrize("damage", [b"", b'{"units": 3}', b"[]", None])
def test_a_damaged_plan_is_named(tmp_path, damage):
    stage, units = make_stage(tmp_path / "out")
    stages.start(stage, units)
    path = tmp_path / "out/_plan.json"
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - 4, len(whole) - 12) if damage is None else (0,):
        path.write_bytes(whole[:cut] + (damage or b""))
        with pytest.raises(UserError, match=r"_plan.json: not a "):
            stages.finished_manifest(stage, units)


def test_units_of_many_files_take_little_memory(tmp_path):
    def payload(number):
        names = [f"folder {number:03d}/file {i:05d}.txt" for i in range(400)]
        return {"files": [{"path": f"in/{n}", "source": n, "mtime_ns": 10**18} for n in names]}

    num_files = 40 * 400
    stage, _ = make_stage(tmp_path / "out")
    tracemalloc.start()
    try:
        units = [unit for n in range(40) for unit in make_units(stage, [payload(n)], [1])]
        units = [dataclasses.replace(unit, index=n) for n, unit in enumerate(units)]
        assert tracemalloc.get_traced_memory()[0] < 40 * num_files
        tracemalloc.reset_peak()
        stages.start(stage, units)
        assert stages.finished_manifest(stage, units) is None
        assert read_plan(stage.output) == units
        assert tracemalloc.get_traced_memory()[1] < 150 * num_files
    finally:
        tracemalloc.stop()
    assert sum(p.stat().st_size for p in (stage.output / "_units").iterdir()) > 90 * num_files


@pytest.mark.parametrize("content", ["[]", "{}", '{"units": [{"index": 0}]}', '{"units": 7}'])
def test_a_plan_that_is_none_is_named_and_can_be_overwritten(tmp_path, content):
    stage, units = make_stage(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_plan.json").write_text(content)
    for attempt in (stages.earlier_units, lambda stage: run(stage, units)):
        with pytest.raises(UserError, match=r"plan\.json: not a plan of this program"):
            attempt(stage)
    assert run(stage, units, overwrite=True).totals["documents"] == 3
