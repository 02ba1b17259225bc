"""A column among values that come as one parameter: one statement, whatever their number.

SQLAlchemy's IN writes a parameter for each: a text that no database has parsed and planned before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Dialect, Text, TypeDecorator, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether `column` is one of the numbers or hashes in the parameter `name`, a sequence."""
    return _Among(column, bindparam(name, type_=_Values()))


class _Values(TypeDecorator[Sequence[int | str]]):
    """Numbers and hashes as one text: a JSON array, or PostgreSQL's own {...}."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[int | str] | None, dialect: Dialect) -> str:
        """The text; what is no number needs no more than JSON's quotes around it."""
        told = msgspec.json.encode(value or ()).decode()
        return f"{{{told[1:-1]}}}" if dialect.name == "postgresql" else told


class _Among(FunctionElement[Any]):
    # of no type: SQLite, which has no booleans, would be asked whether one is 1, by no index
    name = "among"
    inherit_cache = True


@compiles(_Among)
def _in_json(element: Any, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608


@compiles(_Among, "postgresql")
def _in_array(element: Any, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    kind = compiler.dialect.type_compiler_instance.process(column.type)
    column, values = (compiler.process(each, **options) for each in (column, values))
    return f"{column} = ANY(CAST({values} AS {kind}[]))"
