"""The libraries that open clusters: each an extra, imported when it is asked for.

What a class takes is read from the class itself, so that no list of keys has to be kept here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mrsi_engine.engine.clusters.profiles import Profile
from mrsi_engine.errors import InputError

#: Keys that are ours to give.
_OURS = frozenset({"asynchronous", "loop", "security", "self", "silence_logs"})

#: What else the keys of a class may be of, by its own name: it hands them on.
_HANDED_ON = {
    "LocalCluster": ("distributed.Nanny", "distributed.Worker"),
    "LocalCUDACluster": ("distributed.LocalCluster", "distributed.Nanny", "distributed.Worker"),
    "SSHCluster": ("distributed.SpecCluster",),
    "KubeCluster": ("distributed.deploy.Cluster",),
}

#: Classes whose other keys only a server knows; it refuses those that it does not.
_ANY_KEY = frozenset({"GatewayCluster"})


def cluster_class(profile: Profile) -> Callable[..., Any]:
    """The cluster class of a profile.

    Raises
    ------
    InputError
        If its library is not installed or has no such class; the message names the extra.
    """
    if profile.kind is None:
        raise InputError(f"{profile.name}: names no cluster class")
    try:
        return _named(profile.kind)
    except ImportError as error:
        extra = profile.extra
        how = f"'mrsi-engine[{extra}]'" if extra else profile.kind.partition(".")[0]
        raise InputError(
            f"cluster {profile.name} needs {profile.kind} ({error}): install it with pip install "
            f"{how}"
        ) from error
    except AttributeError as error:
        raise InputError(f"{profile.name}: there is no cluster class {profile.kind}") from error


def check_keys(profile: Profile) -> None:
    """Refuse keys of ``[cluster]`` that the class does not take.

    Raises
    ------
    InputError
        If there is one; the message names it, and the key that may have been meant.
    """
    found = cluster_class(profile)
    name = getattr(found, "__name__", "")
    for key in profile.arguments:
        if key in _OURS:
            raise InputError(f"{profile.name}: cluster.{key} is not for a profile to say")
    if name in _ANY_KEY:
        return
    known = set(_keys(found)).difference(_OURS)
    for key in profile.arguments:
        if key not in known:
            near = get_close_matches(key, known, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; it takes {sorted(known)}"
            raise InputError(f"{profile.name}: {profile.kind} takes no key {key!r}{meant}")


def check_needs(profile: Profile) -> None:
    """Refuse a profile whose class asks for a package only once it starts, and it is missing.

    Raises
    ------
    InputError
        If it is; the message names it.
    """
    if profile.needs is not None and find_spec(profile.needs) is None:
        raise InputError(
            f"cluster {profile.name} needs the package {profile.needs}, which comes with no extra: "
            f"pip install {profile.needs}"
        )


def _named(kind: str) -> Any:
    module, _, name = kind.rpartition(".")
    return getattr(import_module(module), name)


def _keys(found: Callable[..., Any]) -> Iterator[str]:
    """Keywords of a class or function, and of what it hands others on to."""
    yield from _own_keys(found)
    # Of dask-jobqueue: what is not of the cluster is of each job.
    job = getattr(found, "job_cls", None)
    if isinstance(job, type):
        yield from _own_keys(job)
    for other in _HANDED_ON.get(getattr(found, "__name__", ""), ()):
        yield from _own_keys(_named(other))


def _own_keys(found: Callable[..., Any]) -> Iterator[str]:
    kinds = found.__mro__ if isinstance(found, type) else ()
    makers = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [found]
    for maker in makers:
        for name, parameter in _parameters(maker).items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                yield name


def _parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(maker).parameters)
    except (TypeError, ValueError):
        return {}
