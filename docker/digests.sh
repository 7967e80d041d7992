#!/bin/sh
# Pulls the images of others that this folder names, and writes them as lines for .env, each by its digest:
#   docker/digests.sh >> docker/.env
# ENGINE=podman where docker is not the engine; REGISTRY is a mirror of docker.io.
set -eu
cd "$(dirname "$0")"
engine=${ENGINE:-docker}
sed -n 's/.*\${\([A-Z0-9]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' compose.yaml compose.auth.yaml compose.monitoring.yaml | while read -r name image; do
    case $image in */*) ;; *) image=library/$image ;; esac
    image=${REGISTRY:-docker.io}/$image
    "$engine" pull --quiet "$image" >&2
    # An image may have come under other names too.
    found=$("$engine" image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | grep -m 1 "^${image%:*}@")
    echo "$name=$found"
done
