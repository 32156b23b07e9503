"""The tables of the queue beside the records: made by whoever migrates, used by the role ``smoltbot_gateway``."""

from __future__ import annotations

from worker_compat.errors import ConfigError, StoreUnavailable
from worker_compat_postgres import database_settings, open_pool

# The lock is that of tables.sql: two that grant at once would both fail. Supabase gives everybody who knows a public
# key all rights on new tables of the schema public.
_SHARE = """
DO $$
DECLARE
    stranger text;
BEGIN
    PERFORM pg_advisory_xact_lock(7738148021342601);
    FOR stranger IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated')
        AND has_table_privilege(rolname, 'worker_compat_queue', 'SELECT, INSERT, UPDATE, DELETE')
    LOOP
        EXECUTE format('REVOKE ALL ON worker_compat_version, worker_compat_kv, worker_compat_queue FROM %I', stranger);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'smoltbot_gateway') THEN
        RETURN;
    END IF;
    IF NOT has_schema_privilege('smoltbot_gateway', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO smoltbot_gateway', current_schema());
    END IF;
    IF NOT has_table_privilege('smoltbot_gateway', 'worker_compat_queue', 'DELETE') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON worker_compat_version, worker_compat_kv, worker_compat_queue
            TO smoltbot_gateway;
    END IF;
END
$$
"""
_USABLE = """
    SELECT coalesce(has_table_privilege(to_regclass('worker_compat_queue'), 'DELETE'),
        has_schema_privilege(current_schema(), 'CREATE'), false) AS usable
"""


async def share_queue(url: str) -> None:
    """Make the tables where they are missing, and let the role ``smoltbot_gateway`` use them.

    Raises :class:`ConfigError` where this user may not make them, :class:`StoreUnavailable` when the server does not
    answer.
    """
    if not await _is_usable(url):
        raise ConfigError(
            "this role may not make the queue's tables: run `smoltbot migrate` as the database's owner, or name another"
            " place for the queue by QUEUE_URL"
        )
    async with open_pool(database_settings(url)) as pool:
        await pool.fetch(_SHARE)


async def check_queue(url: str) -> None:
    """Whether this user has the tables or may make them; ``StoreUnavailable`` with the remedy otherwise."""
    if not await _is_usable(url):
        raise StoreUnavailable("the database lacks the queue's tables for this user: run `smoltbot migrate`")


async def _is_usable(url: str) -> bool:
    async with open_pool(database_settings(url), tables=False) as pool:
        (row,) = await pool.fetch(_USABLE)
    return bool(row["usable"])
