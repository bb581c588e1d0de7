"""What a server knows of its database: which relations were touched, and what there is. Asked as the superuser, answered as JSON."""

from __future__ import annotations

from typing import Any, cast

from gearcase.doors.postgres.cluster import Cluster
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


async def settle(cluster: Cluster) -> None:
    """End every session of the agent: what it touched is counted when it ends."""
    await cluster.ask(
        "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid(); EXIT WHEN NOT FOUND; PERFORM pg_sleep(0.01); "
        "PERFORM pg_stat_clear_snapshot(); END LOOP; END $$;"
    )
