#!/bin/sh
# Pulls the images of others that this folder names, and writes them as lines for .env, each by its digest:
#   docker/digests.sh >> docker/.env
# ENGINE=podman where docker is not the engine; REGISTRY is a mirror of docker.io.
set -eu
cd "$(dirname "$0")"
engine=${ENGINE:-docker}
sed -n 's/.*\${\([A-Z0-9]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' compose.yaml compose.auth.yaml | while read -r name image; do
    case $image in */*) ;; *) image=library/$image ;; esac
    image=${REGISTRY:-docker.io}/$image
    "$engine" pull --quiet "$image" >&2
    echo "$name=$("$engine" image inspect --format '{{index .RepoDigests 0}}' "$image")"
done
