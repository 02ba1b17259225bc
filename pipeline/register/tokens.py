"""Who may ask over HTTP: tokens by name and role, made, revoked and looked up; of each, a hash.

A token is 256 random bits, so that one round of sha256 hides it. It begins with its number, by
which its row is found; its hash is compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from pipeline.errors import RegistryError
from pipeline.register import ledger
from pipeline.register.engine import inserted, now_us, reading, writing
from pipeline.register.orders import LONGEST_NAME, RESERVED
from pipeline.register.scene import Scene
from pipeline.register.tables import is_valid, tokens

#: From what may only be read to what decides; each may do all that the ones before it may.
ROLES = ("reader", "operator", "approver")
#: Before a token, so that a scanner for secrets knows one.
PREFIX = "tidemark"
#: Of a number that no token has: the comparison takes place all the same.
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, without what it is made of."""

    name: str
    role: str
    #: Who made it, and when it was made and revoked, in microseconds since 1970 UTC.
    actor: str
    created: int
    revoked: int | None


class TokenBook:
    """The tokens of one database, looked up; each method is one transaction."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        self.engine = engine
        self.clock = clock

    def all(self) -> list[Token]:
        """Every token that there ever was, in order."""
        with reading(self.engine) as conn:
            return [_token(row) for row in conn.execute(select(tokens).order_by(tokens.c.id))]

    def find(self, token: str) -> Token | None:
        """Whose token it is; None: nobody's, or one that was revoked."""
        prefix, _, rest = token.partition("_")
        text = rest.partition("_")[0]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        with reading(self.engine) as conn:
            this = is_valid & (tokens.c.id == number)
            row = conn.execute(select(tokens).where(this)).first()
        kept = row.sha256 if row is not None else _NOBODY
        same = hmac.compare_digest(kept, _hash(token))
        return _token(row) if row is not None and same and prefix == PREFIX else None

    def note_failures(self, facts: Mapping[str, Any]) -> None:
        """Keep in the ledger that somebody was not let in."""
        with writing(self.engine) as conn:
            ledger.append(conn, "login_failed", facts, at=self.clock(), actor="http")


def add(scene: Scene, name: str, role: str) -> str:
    """A new token, which is told only here.

    Raises
    ------
    RegistryError
        There is one of that name, no such role, or the name cannot be printed.
    """
    if role not in ROLES:
        raise RegistryError(f"no role {role}: a token is of a {', '.join(ROLES)}")
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise RegistryError(
            f"a token's name has 1 to {LONGEST_NAME} printable characters: {name!r}"
        )
    if name in RESERVED or name != name.strip():
        raise RegistryError(f"{name!r} is nobody's name: give the token a person's")
    conn = scene.conn
    if _valid(conn, name) is not None:
        raise RegistryError(f"there is a token {name}: revoke it first")
    row = {"name": name, "role": role, "actor": scene.act.actor, "created": scene.at}
    number = inserted(conn, insert(tokens).values(row | {"sha256": secrets.token_hex(32)}))
    token = f"{PREFIX}_{number}_{secrets.token_urlsafe(32)}"
    conn.execute(update(tokens).where(tokens.c.id == number).values(sha256=_hash(token)))
    scene.note("token_added", {"token": number, "name": name, "role": role})
    return token


def revoke(scene: Scene, name: str) -> None:
    """Let nobody in with it from now on; RegistryError if there is none of that name."""
    number = _valid(scene.conn, name)
    if number is None:
        raise RegistryError(f"there is no token {name}")
    scene.conn.execute(update(tokens).where(tokens.c.id == number).values(revoked=scene.at))
    scene.note("token_revoked", {"token": number, "name": name})


def _valid(conn: Connection, name: str) -> int | None:
    this = is_valid & (tokens.c.name == name)
    return conn.execute(select(tokens.c.id).where(this)).scalar()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _token(row: Row[Any]) -> Token:
    return Token(
        name=row.name,
        role=row.role,
        actor=row.actor,
        created=row.created,
        revoked=row.revoked,
    )
