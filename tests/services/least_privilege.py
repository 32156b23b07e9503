"""A user of PostgreSQL with the role ``smoltbot_gateway`` only, who tries to slip in functions of its own."""

from __future__ import annotations

import asyncpg

USER = "gateway"

_TRAP = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'tricked'; END $$"
_FUNCTIONS = (
    ("to_char(timestamptz, text)", "text"),
    ("clock_timestamp()", "timestamptz"),
    ("jsonb_typeof(jsonb)", "text"),
    ("jsonb_array_elements(jsonb)", "SETOF jsonb"),
    ("jsonb_array_length(jsonb)", "integer"),
    ("encode(bytea, text)", "text"),
    ("decode(text, text)", "bytea"),
    ("length(text)", "integer"),
    ("_now(jsonb)", "timestamptz"),
    ("_iso(timestamptz)", "text"),
    ("_refuse(text)", "void"),
)
_OPERATORS = (
    ("->>", "jsonb", "text", "text"),
    ("->", "jsonb", "text", "jsonb"),
    ("||", "jsonb", "jsonb", "jsonb"),
    ("=", "text", "text", "boolean"),
    ("+", "integer", "integer", "integer"),
)


async def as_gateway(url: str) -> str:
    """The URL of a migrated database for that user, in whose sessions its own functions and operators come first."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_advisory_lock(1)")
        known = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", USER)
        if not known:
            await connection.execute(f"CREATE ROLE {USER} LOGIN IN ROLE smoltbot_gateway")
            await connection.execute(f"ALTER ROLE {USER} SET search_path = tricks, pg_catalog, smoltbot")
        if not await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = 'tricks'"):
            await connection.execute(_tricks())
    finally:
        await connection.close()
    return url.replace("postgres@", f"{USER}@")


def _tricks() -> str:
    """Functions and operators that fail, where a careless function of another schema would find them."""
    made = ["CREATE SCHEMA tricks", f"GRANT ALL ON SCHEMA tricks TO {USER}", f"SET LOCAL ROLE {USER}"]
    made += [f"CREATE FUNCTION tricks.{signature} RETURNS {result} {_TRAP}" for signature, result in _FUNCTIONS]
    for number, (name, left, right, result) in enumerate(_OPERATORS):
        made.append(f"CREATE FUNCTION tricks.trap_{number}({left}, {right}) RETURNS {result} {_TRAP}")
        made.append(
            f"CREATE OPERATOR tricks.{name} (FUNCTION = tricks.trap_{number}, LEFTARG = {left}, RIGHTARG = {right})"
        )
    return ";\n".join(["BEGIN", *made, "COMMIT"])
