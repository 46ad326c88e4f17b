import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from jdnas.errors import CheckpointError, ConfigError
from jdnas.pipeline.storage import RunStorage, storage_of_run


@pytest.fixture(params=["memory", "file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunStorage]:
    if request.param != "memory":
        place = request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path / 'remote'}"
        yield RunStorage(f"{place}/run")
        return
    yield RunStorage("memory://test_storage/run")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here" / "candidates" / "0007").mkdir(parents=True)
    return tmp_path / "here"


def write_detector(stem: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        stem.with_name(stem.name + suffix).write_bytes(suffix.encode() * 3)


def test_there_and_back(storage: RunStorage, folder: Path, tmp_path: Path) -> None:
    storage.check()
    (folder / "a.bin").write_bytes(b"first")
    storage.put(folder, "a.bin")
    assert storage.has("a.bin") and not storage.has("b.bin")
    (folder / "a.bin").write_bytes(b"second, longer")
    storage.put(folder, "a.bin")
    storage.fetch(tmp_path / "there", "a.bin")
    assert (tmp_path / "there" / "a.bin").read_bytes() == b"second, longer"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a.bin"]


def test_missing_files_leave_nothing(storage: RunStorage, tmp_path: Path) -> None:
    storage.check()
    with pytest.raises(CheckpointError, match="candidates/0007/student.json is not in the run's storage"):
        storage.fetch(tmp_path / "there", "candidates/0007/student.json")
    assert not [path for path in (tmp_path / "there").rglob("*") if path.is_file()]


@pytest.mark.parametrize("momentum", [True, False])
def test_detectors(storage: RunStorage, folder: Path, tmp_path: Path, momentum: bool) -> None:
    stem, there = folder / "candidates" / "0007" / "student", tmp_path / "there"
    suffixes = [".safetensors", ".json", *([".optimizer.safetensors"] if momentum else [])]
    write_detector(stem, *suffixes)
    storage.put_detector(folder, stem)
    copy = there / stem.relative_to(folder)
    storage.fetch_detector(there, copy)
    assert sorted(p.name for p in copy.parent.iterdir()) == sorted(f"student{suffix}" for suffix in suffixes)
    for path in copy.parent.iterdir():
        assert path.read_bytes() == (stem.parent / path.name).read_bytes()
    write_detector(stem, ".json", ".json.gone")
    storage.fetch_detector(there, copy)  # it is there


def test_the_header_goes_last(storage: RunStorage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(RunStorage, "put", lambda self, root, name: sent.append(name))
    write_detector(folder / "d", ".json", ".safetensors", ".optimizer.safetensors")
    storage.put_detector(folder, folder / "d")
    assert sent == ["d.optimizer.safetensors", "d.safetensors", "d.json"]


def test_archives(storage: RunStorage, folder: Path, tmp_path: Path) -> None:
    for name in "ab":
        (folder / name).write_text(name)
    storage.put_archive(folder, "data/images.tar", [(folder / "a", "train/0.png"), (folder / "b", "val/0.png")])
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "candidates"]
    into = tmp_path / "there" / "data" / "images"
    storage.fetch_archive(tmp_path / "there", "data/images.tar", into)
    storage.fetch_archive(tmp_path / "there", "data/images.tar", into)
    assert (into / "train" / "0.png").read_text() == "a" and (into / "val" / "0.png").read_text() == "b"
    assert [path.name for path in into.parent.iterdir()] == ["images"]


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--storage 'gopher://x' cannot be used: Protocol not known: gopher"):
        RunStorage("gopher://x").check()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written: .*; check the address"):
        RunStorage(f"file://{tmp_path}/file/run").check()


def test_a_bucket_is_not_made(bucket: str) -> None:
    with pytest.raises(
        ConfigError, match="--storage 's3://jdnas-test/run' cannot be written: .*bucket does not exist.*; check the address"
    ):
        RunStorage("s3://jdnas-test/run").check()
    assert fsspec.filesystem("s3").ls("", refresh=True) == [bucket.removeprefix("s3://")]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # it may have been loaded before
    with pytest.raises(ConfigError, match=r"cannot be used: Install s3fs to access S3; pip install 'jdnas\[s3\]'"):
        RunStorage("s3://runs").check()


def test_a_server_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ConfigError, match="cannot be written: .*connect.*; check the address"):
        RunStorage(f"{bucket}/run").check()


def test_runs_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = storage_of_run("memory://runs/", tmp_path / "one")
    assert one == storage_of_run("memory://runs", tmp_path / "one") != storage_of_run("memory://runs", tmp_path / "two")
    assert one.url.startswith("memory://runs/one-")
