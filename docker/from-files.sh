#!/bin/sh
# Starts a program that takes its secrets from variables alone: what the file of NAME_FILE=.../secrets/... holds becomes
# NAME. So no description of a container tells a secret, and no command line.
set -eu
for name in $(env | sed -n 's#^\([A-Z0-9_]*\)_FILE=.*/secrets/.*#\1#p'); do
    eval "file=\$${name}_FILE"
    secret=$(cat "$file")
    export "$name=$secret"
    unset "${name}_FILE"
done
exec "$@"
