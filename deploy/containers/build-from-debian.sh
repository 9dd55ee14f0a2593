#!/bin/bash
# Builds the image with buildah on a base made of Debian's own packages: no daemon, no image of
# others. Needs root, mmdebstrap and buildah (apt-get install mmdebstrap buildah); run it in the
# root of the repository:
#
#     deploy/containers/build-from-debian.sh mrsi-engine:0.1.0 [options of buildah build]
set -euo pipefail
if [ $# -lt 1 ]; then sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
tag=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot
mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$work/root.tar" ${MRSI_APT_SOURCES:+"$MRSI_APT_SOURCES"}
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/root.tar" / >/dev/null
buildah commit --quiet --rm "$base" localhost/mrsi-debian >/dev/null
# Docker's format: that of OCI has no health check.
buildah build --format docker --build-arg BASE=localhost/mrsi-debian --tag "$tag" \
    --file deploy/containers/Dockerfile "$@" .
