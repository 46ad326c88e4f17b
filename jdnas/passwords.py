"""Database addresses without their passwords, for everything that is printed or written."""

import re

_IN_ADDRESS = re.compile(r"(://[^:/@\s]*):[^\s'\"]*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&\s'\"]*", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return a text with the passwords of all addresses in it taken out: `postgresql://me:secret@host/db` is `postgresql://me@host/db`."""
    return _IN_QUERY.sub(r"\1", _IN_ADDRESS.sub(r"\1@", text))
