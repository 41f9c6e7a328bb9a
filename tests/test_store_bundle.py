"""A study travels as one file and comes together with others: lossless, nothing twice, nothing overwritten."""

from __future__ import annotations

import hashlib
import io
import lzma
import random
import tarfile

import msgspec
import pytest

from efficientllm.errors import ResultsError
from efficientllm.records.codec import encode
from efficientllm.records.examples import example_measurement, example_trial
from efficientllm.records.measurement import SCHEMA_VERSION
from efficientllm.store import container
from efficientllm.store.bundle import merge_bundle, read_manifest, write_bundle
from efficientllm.store.folder import Study, studies


def measured(attempt=0, *, repeat=0, outcome="ok", **fields):
    steps = tuple(random.Random(repeat).uniform(0.1, 0.2) for _ in range(200))
    base = example_measurement(trial=example_trial(repeat=repeat), outcome=outcome, step_s=steps)
    return msgspec.structs.replace(base, id=f"{base.trial.id}-{base.environment.id}-{attempt}", **fields)


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "here", "attention")
    for repeat in range(4):
        study.write(measured(repeat=repeat, software_version="0.1.0"))
    study.keep_recipe(b"title: attention\n")
    return study


@pytest.fixture
def bundle(study, tmp_path):
    return write_bundle(study, tmp_path / "attention.tar.xz").file


def stored(study):
    return {path.name: path.read_bytes() for path in [*study.files(), *study.recipes()]}


def packed(*members, after=b""):
    """Write a tar.xz with any members, as a stranger might."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            member = tarfile.TarInfo(member) if isinstance(member, str) else member
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data))
    return lzma.compress(raw.getvalue() + after)


def manifest_of(**sha256):
    return "manifest.json", msgspec.json.encode({"study": "attention", "bundle": 1, "sha256": sha256})


def test_the_round_trip_is_lossless(study, bundle, tmp_path):
    report = merge_bundle(bundle, tmp_path / "there")
    there = Study(tmp_path / "there", "attention")
    assert stored(there) == stored(study)
    assert len(report.added) == 4 and not report.already_there and not report.refused
    assert report.added == [f"attention/{path.stem}" for path in study.files()]


def test_bytes_that_this_software_would_write_otherwise_travel_unchanged(study, tmp_path):
    path = study.files()[0]
    pretty = msgspec.json.format(path.read_bytes(), indent=4)
    path.write_bytes(pretty)
    merge_bundle(write_bundle(study, tmp_path / "b").file, tmp_path / "there")
    assert Study(tmp_path / "there", "attention").measurement_file(path.stem).read_bytes() == pretty


def test_the_same_study_gives_the_same_bytes(study, bundle, tmp_path):
    other = Study(tmp_path / "elsewhere", "attention")
    for repeat in (3, 1, 2, 0):
        other.write(measured(repeat=repeat, software_version="0.1.0"))
    other.keep_recipe(b"title: attention\n")
    assert write_bundle(other, tmp_path / "other").file.read_bytes() == bundle.read_bytes()


def test_the_manifest_says_what_is_inside(study, bundle):
    manifest = read_manifest(bundle)
    assert (
        manifest.study == "attention"
        and manifest.schemas == (SCHEMA_VERSION,)
        and manifest.software_versions == ("0.1.0",)
    )
    assert len(manifest.sha256) == 5
    with tarfile.open(bundle) as tar:
        assert tar.getnames()[0] == "manifest.json"
        assert set(tar.getnames()[1:]) == set(manifest.sha256)


def test_artifacts_stay_behind_and_unreadable_files_are_left_out_by_name(study, tmp_path):
    study.artifact_folder("0f3a").mkdir(parents=True)
    (study.artifact_folder("0f3a") / "weights").write_bytes(b"w")
    study.files()[0].write_bytes(b"{")
    report = write_bundle(study, tmp_path / "b")
    assert report.measurements == 3
    assert [problem.file for problem in report.left_out] == [study.files()[0].name]
    assert not any("artifacts" in name for name in read_manifest(report.file).sha256)


def test_a_bundle_is_not_written_over_another_file_unless_told(study, bundle):
    before = bundle.read_bytes()
    study.write(measured(repeat=9))
    with pytest.raises(ResultsError, match="exists and differs"):
        write_bundle(study, bundle)
    assert bundle.read_bytes() == before
    write_bundle(study, bundle, overwrite=True)
    assert len(read_manifest(bundle).sha256) == 6


def test_the_longest_id_travels(tmp_path):
    environment = msgspec.structs.replace(measured().environment, id="e" * 60)
    name = f"{measured().trial.id}-{environment.id}-"
    longest = msgspec.structs.replace(measured(), id=name + "0" * (80 - len(name)), environment=environment)
    study = Study(tmp_path / "here", "long")
    study.write(longest)
    report = merge_bundle(write_bundle(study, tmp_path / "b").file, tmp_path / "there")
    assert report.added == [f"long/{longest.id}"]
    with pytest.raises(ResultsError, match="80 letters"):
        study.write(msgspec.structs.replace(longest, id=f"{longest.id}0"))


def test_an_empty_study_makes_no_bundle(tmp_path):
    with pytest.raises(ResultsError, match="holds no measurement"):
        write_bundle(Study(tmp_path, "empty"), tmp_path / "b")
    study = Study(tmp_path, "one")
    study.write(measured())
    with pytest.raises(ResultsError, match="cannot be written"):
        write_bundle(study, tmp_path / "no folder" / "b")


def test_merging_twice_adds_nothing(study, bundle, tmp_path):
    merge_bundle(bundle, tmp_path / "there")
    before = stored(Study(tmp_path / "there", "attention"))
    report = merge_bundle(bundle, tmp_path / "there")
    assert len(report.already_there) == 4 and not report.added and not report.refused
    assert stored(Study(tmp_path / "there", "attention")) == before


def test_another_record_under_the_same_id_is_refused_by_name_and_ours_stays(study, bundle, tmp_path):
    there = Study(tmp_path / "there", "attention")
    mine = measured(repeat=2, software_version="0.1.0", started_at="2026-11-01T00:00:00Z", outcome="oom")
    there.write(mine)
    report = merge_bundle(bundle, tmp_path / "there")
    assert len(report.added) == 3
    ((name, reason),) = report.refused.items()
    assert name == f"attention/{mine.id}"
    assert "measured twice" in reason and "oom on" in reason and "2026-11-01" in reason
    assert there.measurement_file(mine.id).read_bytes() == encode(mine)


def test_the_same_record_in_other_bytes_is_already_there(study, bundle, tmp_path):
    there = Study(tmp_path / "there", "attention")
    there.check_writable()
    path = study.files()[0]
    there.measurement_file(path.stem).write_bytes(msgspec.json.format(path.read_bytes(), indent=2))
    report = merge_bundle(bundle, tmp_path / "there")
    assert report.already_there == [f"attention/{path.stem}"] and len(report.added) == 3


def test_a_damaged_file_that_is_here_is_neither_overwritten_nor_passed_over(study, bundle, tmp_path):
    there = Study(tmp_path / "there", "attention")
    there.check_writable()
    damaged = there.measurement_file(study.files()[0].stem)
    damaged.write_bytes(b"{")
    report = merge_bundle(bundle, tmp_path / "there")
    assert "cannot be read" in report.refused[f"attention/{damaged.stem}"]
    assert damaged.read_bytes() == b"{"


def test_another_attempt_from_elsewhere_is_added_beside_ours(study, tmp_path):
    elsewhere = Study(tmp_path / "elsewhere", "attention")
    elsewhere.write(measured(1, repeat=0))
    report = merge_bundle(elsewhere.path, study.results)
    assert report.added == [f"attention/{measured(1, repeat=0).id}"]
    assert study.done(measured().trial.id, measured().environment.id).id == measured(0).id


def test_folders_merge_as_bundles_do(study, tmp_path):
    Study(study.results, "adapters").write(measured(repeat=8))
    one = merge_bundle(study.path, tmp_path / "one", name="renamed")
    assert len(one.added) == 4 and studies(tmp_path / "one") == ["renamed"]
    both = merge_bundle(study.results, tmp_path / "both")
    assert len(both.added) == 5 and studies(tmp_path / "both") == ["adapters", "attention"]
    itself = merge_bundle(study.path, study.results)
    assert len(itself.already_there) == 4 and not itself.added and not itself.refused


def test_what_is_not_a_measurement_is_refused_by_name(study, tmp_path):
    (study.measurements_folder / "notes.json").write_text('{"by": "hand"}')
    newer = msgspec.json.decode(study.files()[0].read_bytes()) | {"schema": 99}
    study.files()[0].write_bytes(msgspec.json.encode(newer))
    renamed = study.measurements_folder / "renamed.json"
    renamed.write_bytes(study.files()[1].read_bytes())
    (study.measurements_folder / "folder.json").mkdir()
    report = merge_bundle(study.path, tmp_path / "there")
    assert len(report.added) == 3 and len(report.refused) == 4
    assert report.refused["attention/folder"] == "cannot be read: Is a directory"
    assert "newer" in report.refused[f"attention/{study.files()[0].stem}"]
    assert "calls itself" in report.refused["attention/renamed"]


def test_an_id_that_does_not_name_its_trial_is_refused(tmp_path):
    stray = msgspec.structs.replace(measured(), id="made-up-0")
    study = Study(tmp_path / "a", "s")
    study.write(stray)
    blank = msgspec.structs.replace(measured(), id=f"{measured().id} 0")
    (study.measurements_folder / f"{blank.id}.json").write_bytes(encode(blank))
    report = merge_bundle(tmp_path / "a", tmp_path / "b")
    assert set(report.refused) == {"s/made-up-0", f"s/{blank.id}"} and not report.added


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_bundle_is_one_line_and_nothing_of_it_is_stored(bundle, tmp_path, share):
    cut = tmp_path / "cut"
    cut.write_bytes(bundle.read_bytes()[: int(share * bundle.stat().st_size)])
    with pytest.raises(ResultsError) as caught:
        merge_bundle(cut, tmp_path / "there")
    assert "\n" not in str(caught.value) and str(cut) in str(caught.value)
    assert studies(tmp_path / "there") == []


def test_a_bundle_with_any_byte_changed_is_refused_whole(bundle, tmp_path):
    good, rng = bundle.read_bytes(), random.Random(1)
    for number in range(40):
        place = rng.randrange(len(good))
        bad = tmp_path / f"bad{number}"
        bad.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        with pytest.raises(ResultsError) as caught:
            merge_bundle(bad, tmp_path / "there")
        assert "\n" not in str(caught.value)
    assert studies(tmp_path / "there") == []


def linked(kind):
    member = tarfile.TarInfo("measurements/link.json")
    member.type, member.linkname = kind, "/etc/passwd"
    return member, b""


@pytest.mark.parametrize(
    "member",
    [
        ("../outside.json", b"{}"),
        ("/tmp/outside.json", b"{}"),
        ("measurements/../../outside.json", b"{}"),
        ("measurements/.hidden.json", b"{}"),
        ("artifacts/model.bin", b"{}"),
        ("measurements/a.exe", b"{}"),
        linked(tarfile.SYMTYPE),
        linked(tarfile.LNKTYPE),
        linked(tarfile.DIRTYPE),
        linked(tarfile.FIFOTYPE),
        linked(tarfile.XHDTYPE),
    ],
    ids=lambda member: f"{getattr(member[0], 'name', member[0])}-{getattr(member[0], 'type', None)}",
)
def test_a_hostile_member_ends_the_reading_and_nothing_is_written(tmp_path, member):
    bad = tmp_path / "bad"
    bad.write_bytes(packed(manifest_of(), member))
    with pytest.raises(ResultsError, match="no bundle of ours holds"):
        merge_bundle(bad, tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_a_member_that_the_manifest_does_not_know_or_twice_is_refused(tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(packed(manifest_of(), ("measurements/a.json", b"{}")))
    with pytest.raises(ResultsError, match="not what its manifest says"):
        merge_bundle(bad, tmp_path / "there")
    bad.write_bytes(packed(manifest_of(), manifest_of()))
    with pytest.raises(ResultsError, match="twice"):
        merge_bundle(bad, tmp_path / "there")
    bad.write_bytes(packed(manifest_of(**{"measurements/a.json": "0" * 64})))
    with pytest.raises(ResultsError, match="is missing"):
        merge_bundle(bad, tmp_path / "there")
    bad.write_bytes(packed(("measurements/a.json", b"{}")))
    with pytest.raises(ResultsError, match="begin with a manifest"):
        merge_bundle(bad, tmp_path / "there")
    assert studies(tmp_path / "there") == []


def test_a_bundle_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    bad = tmp_path / "bad"
    bomb = tarfile.TarInfo("measurements/bomb.json")
    bomb.size = 1 << 40
    raw = dict([manifest_of()])["manifest.json"]
    manifest = tarfile.TarInfo("manifest.json")
    manifest.size = len(raw)
    blocks = manifest.tobuf(tarfile.USTAR_FORMAT) + raw.ljust(-(-len(raw) // 512) * 512, b"\0")
    bad.write_bytes(lzma.compress(blocks + bomb.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(ResultsError, match="larger than is accepted"):
        merge_bundle(bad, tmp_path / "there")
    for after in (bytes(1 << 20), b"x"):
        bad.write_bytes(packed(manifest_of(), after=after))
        with pytest.raises(ResultsError, match="follows its end"):
            merge_bundle(bad, tmp_path / "there")
    monkeypatch.setattr(container, "MOST_BYTES", 1000)
    names = ("measurements/a.json", "measurements/b.json")
    sha256 = dict.fromkeys(names, hashlib.sha256(bytes(600)).hexdigest())
    bad.write_bytes(packed(manifest_of(**sha256), *((name, bytes(600)) for name in names)))
    with pytest.raises(ResultsError, match="larger than is accepted"):
        merge_bundle(bad, tmp_path / "there")


@pytest.mark.parametrize(
    "manifest", [b"{", b'{"bundle": 1}', b'{"study": "a", "bundle": 99}', b'{"study": "../a"}', b"\xff"]
)
def test_a_manifest_that_makes_no_sense_is_one_line(tmp_path, manifest):
    bad = tmp_path / "bad"
    bad.write_bytes(packed(("manifest.json", manifest)))
    with pytest.raises(ResultsError) as caught:
        merge_bundle(bad, tmp_path / "there")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "there").exists()


def test_what_is_no_source_is_one_line(tmp_path):
    (tmp_path / "text").write_text("no bundle")
    (tmp_path / "empty").mkdir()
    for source in ("text", "empty", "nowhere"):
        with pytest.raises(ResultsError) as caught:
            merge_bundle(tmp_path / source, tmp_path / "there")
        assert "\n" not in str(caught.value) and source in str(caught.value)
