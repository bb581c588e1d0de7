"""What a server knows of its database: which relations were touched, and what there is. Asked as the superuser, answered as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from gearcase.doors.postgres.cluster import Cluster, quoted
from gearcase.events import Amounts

MOST = 2000
"""Relations that are told."""

_TOUCHED = f"""
SELECT coalesce(json_object_agg(name, json_build_object('read', read, 'written', written)), '{{}}') FROM (
  SELECT t.schemaname || '.' || t.relname AS name,
         coalesce(t.seq_tup_read, 0) + coalesce(i.read, 0) AS read, t.n_tup_ins + t.n_tup_upd + t.n_tup_del AS written
  FROM pg_catalog.pg_stat_user_tables t LEFT JOIN (
    SELECT relid, sum(idx_tup_read) AS read, sum(idx_scan) AS scans FROM pg_catalog.pg_stat_user_indexes GROUP BY relid
  ) i USING (relid)
  WHERE coalesce(t.seq_scan, 0) + coalesce(i.scans, 0) + t.n_tup_ins + t.n_tup_upd + t.n_tup_del > 0
    AND t.schemaname NOT LIKE 'pg\\_%' ORDER BY 1 LIMIT {MOST}) touched;
"""


async def touched(cluster: Cluster) -> dict[str, Amounts]:
    """Relations and the rows of them that were read and written since the statistics were reset."""
    found = cast(dict[str, Any], await cluster.facts(_TOUCHED))
    return {name: {"read": int(one["read"]), "written": int(one["written"])} for name, one in found.items()}


_LEFT = f"""
SELECT coalesce(json_object_agg(name, json_build_array(size, deleted - added)), '{{}}') FROM (
  SELECT schemaname || '.' || relname AS name, pg_relation_size(relid) AS size, n_tup_del AS deleted, n_tup_ins AS added
  FROM pg_catalog.pg_stat_user_tables WHERE schemaname NOT LIKE 'pg\\_%' ORDER BY 1 LIMIT {MOST}) tables;
"""


async def lost(cluster: Cluster, before: Inventory) -> list[str]:
    """Tables with rows, of those before, that are gone, empty, or have lost more than half of their rows."""
    rows = {name: one.rows for name, one in before.relations.items() if one.kind == "r" and one.rows > 0}
    if not rows:
        return []
    left = cast(dict[str, list[int]], await cluster.facts(_LEFT))
    if len(left) >= MOST:  # which are not told cannot be said
        rows = {name: count for name, count in rows.items() if name in left}
    return [name for name, count in rows.items() if name not in left or not left[name][0] or left[name][1] * 2 > count]


_UNLOGGED = r"""
SELECT json_build_object('bytes', pg_database_size(current_database()), 'unlogged', (
  SELECT coalesce(json_agg(n.nspname || '.' || c.relname ORDER BY 1), '[]') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname NOT LIKE 'pg\_%'));
"""


async def after_a_crash(cluster: Cluster) -> int:
    """The bytes of a database that began as after a crash; what such a one has lost is told as left out."""
    found = cast(dict[str, Any], await cluster.facts(_UNLOGGED))
    cluster.left_out = [f"{name}: unlogged, so it comes empty" for name in found["unlogged"]]
    return int(found["bytes"])


async def settle(cluster: Cluster) -> None:
    """End every session of the agent: what it touched is counted when it ends."""
    await cluster.ask(
        "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid(); EXIT WHEN NOT FOUND; PERFORM pg_sleep(0.01); "
        "PERFORM pg_stat_clear_snapshot(); END LOOP; END $$;"
    )


_DEFINITIONS = rf"""
WITH mine AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname, c.relname LIMIT {MOST})
SELECT json_build_object(
  'relations', (SELECT coalesce(json_agg(json_build_object('schema', nspname, 'name', relname, 'kind', relkind, 'lines', (
      SELECT coalesce(json_agg(line), '[]') FROM (
        SELECT 'column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
               || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') AS line
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = mine.oid AND a.attnum > 0 AND NOT a.attisdropped AND mine.relkind <> 'S'
        UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
          WHERE conrelid = mine.oid AND contype <> 'n'
        UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = mine.oid
        UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = mine.oid AND NOT tgisinternal
        UNION ALL SELECT pg_get_viewdef(mine.oid) WHERE mine.relkind IN ('v', 'm')) lines))), '[]') FROM mine),
  'functions', (SELECT coalesce(json_object_agg(p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid))), '{{}}')
    FROM (SELECT f.oid FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
      WHERE f.prokind IN ('f', 'p') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
      LIMIT {MOST}) p));
"""
_HAVE_ROWS = ("r", "p", "m")


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or sequence. `kind` is PostgreSQL's letter, `lines` define it, `rows` is -1 where it holds none of its own."""

    kind: str
    rows: int
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a database holds. `functions` maps a signature to a digest of its text."""

    relations: dict[str, Relation]
    functions: dict[str, str]

    @property
    def tables(self) -> dict[str, int]:
        """Tables and their rows."""
        return {name: one.rows for name, one in self.relations.items() if one.kind in _HAVE_ROWS}

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Inventory:
        """What `as_json` made."""
        return cls({name: Relation(**one) for name, one in held["relations"].items()}, dict(held["functions"]))


async def inventory(cluster: Cluster) -> Inventory:
    """What the database holds now, every row counted. Raises RunError `door_failed`."""
    found = cast(dict[str, Any], await cluster.facts(_DEFINITIONS))
    with_rows = [one for one in found["relations"] if one["kind"] in _HAVE_ROWS]
    counts = ", ".join(f"(SELECT count(*) FROM {quoted(one['schema'])}.{quoted(one['name'])})" for one in with_rows)
    rows = iter(await cluster.facts(f"SELECT json_build_array({counts});"))
    relations = {
        f"{one['schema']}.{one['name']}": Relation(
            one["kind"], int(next(rows)) if one["kind"] in _HAVE_ROWS else -1, sorted(one["lines"])
        )
        for one in found["relations"]
    }
    return Inventory(relations, dict(found["functions"]))
