"""What the server of a Dask Gateway needs to start workers for mrsi_engine.

Append it to the configuration of the server (``gateway.extraConfig`` of its Helm chart).
"""

from __future__ import annotations

from typing import Any

from dask_gateway_server.options import Float, Integer, Options, Select

#: Images that users may choose; scheduler, workers and driver need the same version.
IMAGES = ["mrsi-engine:0.1.0", "mrsi-engine:0.1.0-cuda"]

#: Every worker and scheduler sees the data under the same path as the driver.
VOLUMES = [{"name": "data", "persistentVolumeClaim": {"claimName": "mrsi-data"}}]
MOUNTS = [{"name": "data", "mountPath": "/data"}]


def handler(options: Any) -> dict[str, Any]:
    """What a choice of options means for pods."""
    pod = {"volumes": VOLUMES, "securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}
    container = {"volumeMounts": MOUNTS}
    return {
        "image": options.image,
        "worker_cores": options.worker_cores,
        "worker_threads": 1,
        "worker_memory": f"{options.worker_memory:g}G",
        "scheduler_extra_pod_config": pod,
        "worker_extra_pod_config": pod,
        "scheduler_extra_container_config": container,
        "worker_extra_container_config": container,
    }


c.Backend.cluster_options = Options(  # type: ignore[name-defined]  # noqa: F821
    Select("image", IMAGES, label="Image"),
    Integer("worker_cores", default=1, min=1, max=8, label="Cores a worker"),
    Float("worker_memory", default=4, min=2, max=64, label="Memory a worker (GB)"),
    handler=handler,
)
