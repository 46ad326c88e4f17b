"""The address of a study's database: which driver it needs, and how it is connected to."""

from importlib.util import find_spec
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jdnas.errors import ConfigError, MissingExtraError

_LOCK_TIMEOUT_S = 60
# A server that vanished without a word is noticed within about a minute, not after the operating system's two hours.
_POSTGRES = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_POSTGRES_DRIVERS = {"psycopg": "postgresql+psycopg", "psycopg2": "postgresql+psycopg2"}


def study_url(text: str) -> URL:
    """Read an address; `postgresql://` takes the driver that is installed. A ConfigError says what is wrong, without the password."""
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the study's address is no database address; it looks like postgresql://user@host/database") from error
    if backend not in ("postgresql", "postgres"):
        return url
    if "+" in url.drivername:
        return url
    driver = next((name for package, name in _POSTGRES_DRIVERS.items() if find_spec(package) is not None), None)
    if driver is None:
        raise MissingExtraError("psycopg", "postgres")
    return url.set(drivername=driver)


def engine_arguments(url: URL) -> dict[str, Any]:
    """Return SQLAlchemy's arguments for a study's database; what the address itself says goes first."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": _LOCK_TIMEOUT_S}}
    if backend == "postgresql":
        return {"pool_pre_ping": True, "connect_args": {key: value for key, value in _POSTGRES.items() if key not in url.query}}
    return {"pool_pre_ping": True}
