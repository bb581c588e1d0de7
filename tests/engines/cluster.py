"""A Ray cluster of this machine, on loopback alone, in a process of its own: each line that it reads adds a node or ends all.

Prints a line of JSON when it is up: its address, and the process of each node.
"""

import json
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback stays loopback

from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray.cluster_utils import Cluster

SMALL = {
    "node_ip_address": "127.0.0.1",
    "num_cpus": 1,
    "object_store_memory": ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES,
    "include_dashboard": False,
    "include_log_monitor": False,
}


def main(nodes):
    os.makedirs(get_default_ray_temp_dir(), exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args=SMALL, shutdown_at_exit=True)
    made = [cluster.head_node] + [cluster.add_node(**SMALL, wait=False) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    pids = {node.unique_id: node.all_processes["raylet"][0].process.pid for node in made}
    print(json.dumps({"address": cluster.address, "raylets": pids}), flush=True)
    sys.stdin.read()  # until its user is gone
    cluster.shutdown()


main(int(sys.argv[1]))
