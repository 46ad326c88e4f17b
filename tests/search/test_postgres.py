"""A search in a real PostgreSQL, where its server is installed: in a cluster of its own, which goes away and comes back."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jdnas.errors import CheckpointError
from jdnas.search.climb import run
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from jdnas.search.workshop import Candidate, EarlyLook, Outcome
from jdnas.spec import DetectorSpec
from tests.search.simulated import TASK, Simulator, cost, essence

RULES = SearchSettings(trials=12, seed=3, patience=999, stop_after=2, k=2, optimistic_gain=0.0)
PASSWORD = "very-secret"


def find_postgres() -> Path | None:
    """Return the folder of the server's programs; distributions keep them off the path."""
    places = [Path(found).resolve().parent for name in ("postgres", "initdb") if (found := shutil.which(name))]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


POSTGRES = find_postgres()
# The server refuses to run as root; packages of it come with a user for it.
USER = "postgres" if os.name == "posix" and os.geteuid() == 0 else None
pytestmark = [pytest.mark.skipif(POSTGRES is None, reason="needs PostgreSQL's server programs")]


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://jdnas:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def control(self, *arguments: str) -> None:
        assert POSTGRES is not None
        log = ["-l", str(self.folder / "log")] if arguments[0] == "start" else []
        command = [str(POSTGRES / "pg_ctl"), "-D", str(self.folder / "data"), "-w", *log, *arguments]
        subprocess.run(command, check=True, user=USER, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    assert POSTGRES is not None
    folder = Path(tempfile.mkdtemp(prefix="jdnas-pg"))
    try:
        if USER is not None:
            shutil.chown(folder, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            made = Server(folder, free.getsockname()[1])
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        start = [str(POSTGRES / "initdb"), "-D", str(folder / "data"), "-U", "jdnas", "--auth=scram-sha-256", f"--pwfile={secret}", "-N"]
        subprocess.run(start, check=True, user=USER, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"port = {made.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n")
        made.control("start")
        yield made
        made.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_search_in_postgresql_is_the_search_in_a_file(server: Server, tmp_path: Path) -> None:
    with SearchStudy.open(sqlite_url(tmp_path / "study.db"), TASK, RULES) as study:
        expected = essence(run(study, Simulator(), cost).history)
    with SearchStudy.open(server.url, TASK, RULES, name="first") as study:
        run(study, Simulator(), cost, should_stop=lambda: len(study.history) >= 5)
    with SearchStudy.open(server.url, TASK, RULES, name="first") as study:
        assert essence(run(study, Simulator(), cost).history) == expected
    other = RULES.model_copy(update={"seed": 8})
    with SearchStudy.open(server.url, TASK, other, name="second") as study:
        assert essence(run(study, Simulator(), cost).history) != expected
    with SearchStudy.load(server.url, name="first") as study:
        assert essence(study.history) == expected


def test_the_server_goes_away_in_the_middle_and_comes_back(server: Server, tmp_path: Path) -> None:
    with SearchStudy.open(sqlite_url(tmp_path / "study.db"), TASK, RULES) as study:
        expected = essence(run(study, Simulator(), cost).history)
    said: list[str] = []

    def come_back() -> None:
        time.sleep(4)
        server.control("start")

    back = threading.Thread(target=come_back)

    class Interrupting(Simulator):
        def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
            if candidate.number == 4:
                server.control("stop", "-m", "immediate")
                back.start()
            return super().evaluate(candidate, student, look)

    with SearchStudy.open(server.url, TASK, RULES, name="interrupted", on_wait=said.append) as study:
        assert essence(run(study, Interrupting(), cost).history) == expected
    back.join()
    assert said and not any(PASSWORD in line for line in said)


def test_a_wrong_password_is_said_at_once_and_not_shown(server: Server) -> None:
    started = time.monotonic()
    with pytest.raises(
        CheckpointError, match=f"cannot open the search study at postgresql://jdnas@127.0.0.1:{server.port}/postgres"
    ) as caught:
        SearchStudy.open(server.url.replace(PASSWORD, "guessed-wrong"), TASK, RULES)
    assert "guessed-wrong" not in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - started < 20
