"""Which code on which machine: commits of real repositories, hardware as the system tells it."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import torch

import callbacks.provenance as provenance
from callbacks.provenance import add_start, commit_of, describe_hardware, describe_start


def git(folder, *words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit and one file in a package."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_the_commit_is_the_whole_hash_and_tells_of_changes(repository):
    package = repository / "package"
    first = git(repository, "rev-parse", "HEAD")
    assert len(first) == 40 and commit_of(package) == first
    git(repository, "tag", "-a", "v1", "-m", "a tag is no answer")
    (package / "notes.txt").write_text("git does not track this\n")
    assert commit_of(package) == first
    (package / "code.py").write_text("x = 2\n")
    assert commit_of(package) == f"{first}+changes"
    git(repository, "commit", "-q", "-a", "-m", "two")
    assert commit_of(package) == git(repository, "rev-parse", "HEAD") != first


def test_a_staged_change_elsewhere_in_the_tree_counts(repository):
    (repository / "other.py").write_text("y = 1\n")
    git(repository, "add", "other.py")
    assert commit_of(repository / "package") == git(repository, "rev-parse", "HEAD") + "+changes"


def test_sources_that_git_does_not_track_count_and_runs_and_data_do_not(repository, tmp_path):
    package, first = repository / "package", git(repository, "rev-parse", "HEAD")
    (repository / "runs").symlink_to(tmp_path)
    (repository / "data" / "MNIST").mkdir(parents=True)
    (repository / "data" / "MNIST" / "images.gz").write_bytes(b"x")
    (repository / "my_runs").mkdir()
    (repository / "my_runs" / "config.yaml").write_text("seed: 1\n")
    assert commit_of(package) == first
    for path in (repository / "configs" / "attack" / "new.yaml", repository / "other" / "new.py"):
        path.parent.mkdir(parents=True)
        path.write_text("# new\n")
        assert commit_of(package) == f"{first}+changes"
        path.unlink()
    (repository / ".gitignore").write_text("ignored.py\n")
    (package / "ignored.py").write_text("x = 1\n")
    assert commit_of(package) == first


def test_no_repository_no_commit_and_no_git_tell_nothing(tmp_path, repository, monkeypatch):
    installed = repository / "venv" / "site-packages" / "package"  # inside a repository that is another project's
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert commit_of(installed) is None
    assert commit_of(tmp_path / "nowhere") is None
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert commit_of(empty) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(repository / "package") is None


def test_a_git_that_hangs_or_points_elsewhere_does_no_harm(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a hook
    assert commit_of(repository / "package") == git(repository, "rev-parse", "HEAD")
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (slow / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_PATIENCE", 0.2)
    assert commit_of(repository / "package") is None


def test_the_hardware_is_what_the_system_says(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: X\nmodel name\t: A Fine CPU @ 3.00GHz\ncpu MHz\t\t: 3000\n")
    monkeypatch.setattr(provenance, "CPUINFO", cpuinfo)
    monkeypatch.setattr(os, "cpu_count", lambda: 24)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 25_000_000}.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    assert describe_hardware() == {
        "processor": "A Fine CPU @ 3.00GHz", "cores": 24, "memory_gib": 95.4, "gpus": ["GPU 0", "GPU 1"]
    }  # fmt: skip


def test_what_the_system_does_not_say_is_none(tmp_path, monkeypatch):
    def unknown(_):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "nothing")
    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    told = describe_hardware()
    assert (told["processor"], told["memory_gib"], told["gpus"]) == ("arm", None, [])
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert describe_hardware()["processor"] is None


def test_a_start_tells_versions_command_and_time():
    told = describe_start()
    assert told["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"optuna", "zeroth", "scipy"} <= set(told["versions"])
    assert (told["python"], told["command"]) == (platform.python_version(), sys.argv)
    started = datetime.fromisoformat(told["started"])
    assert started.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - started) < timedelta(minutes=1)


def test_a_start_is_kept_once_whatever_its_date_and_command():
    one = describe_start()
    starts = add_start([], one)
    assert starts == [one]
    assert add_start(starts, one | {"started": "2030-01-01T00:00:00+00:00", "command": ["again"]}) == [one]
    for change in (
        {"commit": "0" * 40},
        {"python": "4"},
        {"versions": {}},
        {"hardware": one["hardware"] | {"cores": 1}},
    ):
        assert add_start(starts, one | change) == [one, one | change]
    other = one | {"commit": "0" * 40}
    assert add_start([one, other], one) == [one, other]  # back on the first machine: known
