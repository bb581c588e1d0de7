"""Columns of a branch whose values stay outside: replaced in its own server after the copy, before anything of the box reaches it.

`hash` puts 16 hexadecimal characters in the place of a text, the same for the same text within one branch (so that what was joined still
joins where both sides are masked) and unlike in any other, since the salt is thrown away. `null` puts nothing there.

Invariant: no trace is left of what was replaced. Tables are written anew with their statistics, materialized views are computed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from gearcase.doors.housed import last_words
from gearcase.doors.postgres.cluster import Cluster, literal, quoted
from gearcase.errors import RunError

_REFRESH = """
DO $$ DECLARE one regclass; BEGIN
  FOR one IN SELECT oid FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY oid LOOP
    EXECUTE format('REFRESH MATERIALIZED VIEW %s', one);
  END LOOP;
END $$;
"""


async def mask(cluster: Cluster, masks: Mapping[str, str]) -> None:
    """Replace the values of columns, each named [SCHEMA.]TABLE.COLUMN. Raises RunError `bad_mask` where one cannot be replaced."""
    if not masks:
        return
    salt = secrets.token_hex(16)
    parts = ["SET session_replication_role = replica;"]  # no trigger of the source sees a value
    tables: dict[str, None] = {}
    for name, kind in masks.items():
        *schema, table, column = name.split(".")
        full = f"{quoted(schema[0] if schema else 'public')}.{quoted(table)}"
        tables[full] = None
        parts.append(_replace(full, column, kind, salt))
    parts += [*(f"VACUUM (FULL, ANALYZE) {one};" for one in tables), _REFRESH]
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", f"--dbname={cluster.database}")
    done = await cluster.run("psql", *options, stdin="\n".join(parts).encode())
    if done.exit_code != 0:
        remedy = "name columns as TABLE.COLUMN or SCHEMA.TABLE.COLUMN; `hash` is for texts, `null` for what may be null"
        raise RunError("bad_mask", "a column of the branch cannot be masked", cause=last_words(done), remedy=remedy)


def _replace(table: str, column: str, kind: str, salt: str) -> str:
    """A statement that replaces one column, or fails where there is none."""
    hashed = f"substr(encode(sha256(convert_to('{salt}' || %1$I::text, 'UTF8')), 'hex'), 1, 16)"
    value = "NULL" if kind == "null" else f"CAST({hashed} AS %3$s)"
    update = f"UPDATE %2$s SET %1$I = {value} WHERE %1$I IS NOT NULL"
    return f"""
DO $mask$ DECLARE type text; BEGIN
  SELECT format_type(atttypid, atttypmod) INTO type FROM pg_attribute
    WHERE attrelid = to_regclass({literal(table)}) AND attname = {literal(column)} AND attnum > 0 AND NOT attisdropped;
  IF type IS NULL THEN RAISE EXCEPTION 'there is no column % in %', {literal(column)}, {literal(table)}; END IF;
  EXECUTE format({literal(update)}, {literal(column)}, {literal(table)}, type);
END $mask$;"""
