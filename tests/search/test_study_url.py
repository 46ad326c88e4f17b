import pytest

from jdnas.errors import ConfigError, MissingExtraError
from jdnas.passwords import without_passwords
from jdnas.search import study_url as module
from jdnas.search.study_url import engine_arguments, study_url


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql+psycopg://me:se:cr@et@host/db", "postgresql+psycopg://me@host/db"),
        ("mysql://me@host/db", "mysql://me@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=&x=1"),
        ("--study-url 'postgresql://me:secret@host/db' --trials 3", "--study-url 'postgresql://me@host/db' --trials 3"),
        ("sqlite:////tmp/runs/a:b/study.db", "sqlite:////tmp/runs/a:b/study.db"),
        ("--ray-address ray://10.0.0.1:10001", "--ray-address ray://10.0.0.1:10001"),
        ("candidate 3 (AP 0.3) failed: RuntimeError", "candidate 3 (AP 0.3) failed: RuntimeError"),
    ],
)  # fmt: skip
def test_passwords_are_taken_out(given: str, shown: str) -> None:
    assert without_passwords(given) == shown
    assert "secret" not in without_passwords(given)


@pytest.mark.parametrize("given", ["postgresql://me:secret@host/db", "postgres://me:secret@host/db"])
def test_postgresql_takes_the_driver_that_is_there(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for there, driver in (({"psycopg", "psycopg2"}, "psycopg"), ({"psycopg2"}, "psycopg2")):
        monkeypatch.setattr(module, "find_spec", lambda name, there=there: name if name in there else None)
        url = study_url(given)
        assert (url.drivername, url.password, url.host) == (f"postgresql+{driver}", "secret", "host")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jdnas\[postgres\]'"):
        study_url(given)
    assert study_url("postgresql+asyncpg://h/db").drivername == "postgresql+asyncpg"


def test_what_is_no_address_is_said_without_its_password() -> None:
    with pytest.raises(ConfigError, match="is no database address; it looks like postgresql://user@host/database") as caught:
        study_url("me:secret@host")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        study_url("postgresql://me:secret@host:port/db")
    assert "secret" not in str(caught.value)


def test_what_the_address_says_goes_first() -> None:
    assert engine_arguments(study_url("sqlite:///x.db")) == {"connect_args": {"timeout": 60}}
    assert engine_arguments(study_url("mysql+pymysql://h/db")) == {"pool_pre_ping": True}
    own = engine_arguments(study_url("postgresql+psycopg://h/db?connect_timeout=3"))["connect_args"]
    assert "connect_timeout" not in own and own["keepalives_idle"] == 30
