"""Clusters by name: what each is told, who may send it work, and whether it can do a run."""

from mrsi_engine.engine.clusters.certificates import TLSFiles
from mrsi_engine.engine.clusters.choice import LOCAL, ClusterChoice, Need, OpenCluster, Tell
from mrsi_engine.engine.clusters.dashboards import dashboard_link, ssh_line
from mrsi_engine.engine.clusters.existing import connected
from mrsi_engine.engine.clusters.local import default_workers, gpu_cluster, local_cluster, warm_up
from mrsi_engine.engine.clusters.memory import bytes_needed, bytes_of_scan, least_bytes
from mrsi_engine.engine.clusters.opening import open_cluster, try_cluster
from mrsi_engine.engine.clusters.pool import refill_of
from mrsi_engine.engine.clusters.profiles import is_address, profile_names, profile_text, summary_of
from mrsi_engine.engine.clusters.settings import DASK_SETTINGS, WORKER_ENVIRONMENT

__all__ = [
    "DASK_SETTINGS",
    "LOCAL",
    "WORKER_ENVIRONMENT",
    "ClusterChoice",
    "Need",
    "OpenCluster",
    "TLSFiles",
    "Tell",
    "bytes_needed",
    "bytes_of_scan",
    "connected",
    "dashboard_link",
    "default_workers",
    "gpu_cluster",
    "is_address",
    "least_bytes",
    "local_cluster",
    "open_cluster",
    "profile_names",
    "profile_text",
    "refill_of",
    "ssh_line",
    "summary_of",
    "try_cluster",
    "warm_up",
]
