"""Runs that share a folder, or take it from one another, here and in stores."""

import dataclasses
import threading

import pytest

from blt.dataset import stage as stages
from blt.dataset import storage
from blt.dataset.finishing import UndoneError, finish
from blt.dataset.manifest import read_manifest
from blt.dataset.stage import Stage, make_units
from blt.dataset.storage import as_place, atomic_path
from blt.dataset.units import ShardInfo, UnitResult, no_progress
from blt.dataset.working import SupersededError, work_on
from blt.errors import MadeOtherwiseError

TEXTS = ("a", "bb", "ccc", "dddd")


class Shout:
    """Copies text in upper case; `done` tells of which units, `before` is called for each."""

    def __init__(self, suffix="", before=lambda unit: None):
        self.suffix, self.before, self.done = suffix, before, []

    def __call__(self, unit, output, progress):
        text = unit.payload["text"].upper() + self.suffix
        name = f"loud-{unit.index:05d}-000.txt"
        with atomic_path(output / name) as path:
            path.write_text(text)
            digest = storage.sha256_file(path)
            self.before(unit)
        self.done.append(unit.index)
        counts = {"documents": 1, "records": 1, "bytes": len(text), "tokens": len(text) + 2}
        info = {name: counts[name] for name in ("documents", "bytes", "tokens")}
        return UnitResult(shards=(ShardInfo(name=name, sha256=digest, **info),), counts=counts)


def make_stage(root, run_unit=None, *, texts=TEXTS, **changes):
    stage = Stage(
        kind="byte_shards",
        output=as_place(root) / "out",
        config={"loudness": 1},
        run_unit=run_unit or Shout(),
        shard_patterns=("loud-*.txt",),
        reads_foreign_data=True,
    )
    stage = dataclasses.replace(stage, **changes)
    return stage, make_units(stage, [{"text": text} for text in texts], [1] * len(texts))


def run(stage, units, **kwargs):
    stage, pending = stages.start(stage, units, **kwargs)
    for unit in pending:
        work_on(stage, unit, no_progress)
    return finish(stage, units)


def contents(root):
    """Returns what a folder holds, without what tells of the run that made it."""
    start = len(f"{root}/out/")
    return {
        file.path[start:]: as_place(file.path).read_bytes()
        for file in storage.list_below(f"{root}/out")
        if not file.path[start:].startswith(("_units/", "_plan.json"))
    }


def test_a_run_is_resumed_from_one_listing(root, tmp_path):
    expected = run(*make_stage(tmp_path / "undisturbed"))
    stage, units = make_stage(root)
    started, pending = stages.start(stage, units)
    assert pending == units
    for unit in units[:2]:
        work_on(started, unit, no_progress)
    assert stages.start(stage, units)[1] == units[2:]
    manifest = run(stage, units)
    assert manifest.sha256 == expected.sha256
    assert contents(root) == contents(tmp_path / "undisturbed")
    assert stages.finished_manifest(stage, units) == manifest == read_manifest(stage.output)
    storage.delete(stage.output / manifest.shards[1].name)
    assert stages.finished_manifest(stage, units) is None
    assert stages.start(stage, units)[1] == [units[1]]
    assert not (stage.output / "_manifest.json").exists()


def test_a_copied_dataset_is_read_once_and_known(root, tmp_path):
    stage, units = make_stage(tmp_path / "first")
    run(stage, units)
    for file in storage.list_below(tmp_path / "first/out"):
        below = file.path.removeprefix(f"{tmp_path}/first/")
        storage.replace(f"{root}/{below}", as_place(file.path).read_bytes())
    copied, units = make_stage(root)
    assert stages.start(copied, units)[1] == []
    storage.replace(copied.output / "loud-00001-000.txt", b"XX")  # of the same size
    assert stages.start(copied, units)[1] == [units[1]]


def test_verify_reads_what_a_listing_cannot_tell(root):
    stage, units = make_stage(root)
    run(stage, units)
    name = f"{stage.output}/loud-00001-000.txt"
    version = storage.replace(name, b"XX")
    marker = stage.output / "_units/00001.json"
    text = marker.read_text()
    old = text.partition('"version": "')[2]  # forge the marker: as if nothing had changed
    import json

    value = json.loads(text)
    assert old
    value["files"]["loud-00001-000.txt"]["version"] = version
    storage.replace(marker, json.dumps(value).encode())
    assert stages.start(stage, units)[1] == []
    assert stages.start(stage, units, verify=True)[1] == [units[1]]


def test_runs_of_one_identity_that_start_at_once_share_the_work(root):
    start = threading.Barrier(2)
    works = [Shout(), Shout()]
    outcomes = []

    def one(work):
        stage, units = make_stage(root, work, texts=[str(number) for number in range(20)])
        start.wait()
        stage, pending = stages.start(stage, units)
        for unit in pending if work is works[0] else reversed(pending):
            work_on(stage, unit, no_progress)
        outcomes.append(finish(stage, units).sha256)

    threads = [threading.Thread(target=one, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2
    assert len(set(outcomes)) == 1
    done = [*works[0].done, *works[1].done]
    assert sorted(set(done)) == list(range(20))
    assert len(done) <= 22  # but for what was in flight, each once
    names = {name for name in contents(root) if name.startswith("loud-")}
    assert len(names) == 20


def test_of_two_identities_that_start_at_once_one_wins_and_the_other_does_nothing(root):
    for number in range(3):
        start = threading.Barrier(2)
        works = [Shout("!"), Shout("?")]
        outcomes = {}

        def one(index, number=number, start=start, works=works, outcomes=outcomes):
            config = {"loudness": index}
            stage, units = make_stage(f"{root}/{number}", works[index], config=config)
            start.wait()
            try:
                outcomes[index] = run(stage, units).config
            except MadeOtherwiseError as error:
                outcomes[index] = str(error)

        threads = [threading.Thread(target=one, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [index for index, outcome in outcomes.items() if isinstance(outcome, dict)]
        assert outcomes[winner] == {"loudness": winner}
        assert f"--loudness ({winner}, now {1 - winner})" in outcomes[1 - winner]
        assert works[1 - winner].done == []


def test_a_late_worker_cannot_spoil_a_dataset_that_was_made_anew(root, tmp_path):
    expected = run(*make_stage(tmp_path / "undisturbed", Shout("!"), config={"loudness": 2}))

    def overwritten(unit):
        run(*make_stage(root, Shout("!"), config={"loudness": 2}), overwrite=True)

    stage, units = make_stage(root, Shout(before=overwritten))
    started, _ = stages.start(stage, units)
    with pytest.raises(SupersededError, match="another run has made it its own"):
        work_on(started, units[0], no_progress)
    with pytest.raises(SupersededError):
        finish(started, units)
    assert contents(root) == contents(tmp_path / "undisturbed")
    assert read_manifest(stage.output).sha256 == expected.sha256


def test_what_a_late_worker_slips_in_is_found_and_made_again(root, tmp_path):
    expected = run(*make_stage(tmp_path / "undisturbed"))
    stage, units = make_stage(root)
    started, pending = stages.start(stage, units)
    for unit in pending:
        work_on(started, unit, no_progress)
    storage.replace(stage.output / "loud-00002-000.txt", b"XYZ")  # over a shard
    storage.replace(stage.output / "loud-00002-001.txt", b"XYZ")  # and beside it
    with pytest.raises(UndoneError) as error:
        finish(started, units)
    assert error.value.units == [units[2]]
    started, pending = stages.start(stage, units)
    assert pending == [units[2]]
    work_on(started, units[2], no_progress)
    assert finish(started, units).sha256 == expected.sha256
    assert contents(root) == contents(tmp_path / "undisturbed")


def test_nothing_is_left_of_failed_attempts(root):
    def fail(unit):
        raise OSError(5, "Input/output error", "in.txt")

    stage, units = make_stage(root, Shout(before=fail))
    started, pending = stages.start(stage, units)
    assert [work_on(started, unit, no_progress) for unit in pending] == [None] * 4
    run(*make_stage(root))
    names = {file.path.rpartition("/")[2] for file in storage.list_below(stage.output / "_units")}
    assert names == {f"0000{index}.json" for index in range(4)}


def test_a_late_worker_that_fails_leaves_no_note(root):
    def overwritten(unit):
        run(*make_stage(root, Shout("!"), config={"loudness": 2}), overwrite=True)
        raise OSError(5, "Input/output error", "in.txt")

    stage, units = make_stage(root, Shout(before=overwritten))
    started, _ = stages.start(stage, units)
    with pytest.raises(SupersededError):
        work_on(started, units[0], no_progress)
    names = {place.name for place in (stage.output / "_units").iterdir()}
    assert names == {f"0000{index}.json" for index in range(4)}


def test_a_unit_that_fails_here_and_was_done_by_another_run_meanwhile_is_done(root):
    """As when the other run, being done with all, has removed what the units were made from."""
    stage, units = make_stage(root)
    stage, _ = stages.start(stage, units)

    def failing(unit, output, progress):
        work_on(stage, unit, no_progress)
        raise FileNotFoundError("dealt")

    late = dataclasses.replace(stage, run_unit=failing)
    results = [work_on(late, unit, no_progress) for unit in units]
    assert [result.shards[0].name for result in results] == [
        f"loud-{unit.index:05d}-000.txt" for unit in units
    ]
    left = storage.list_below(f"{root}/out/_units")
    assert not [file for file in left if file.path.endswith(".failed.json")]
    assert finish(stage, units).totals["documents"] == len(TEXTS)
