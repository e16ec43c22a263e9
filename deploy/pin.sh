#!/usr/bin/env bash
# Adds to every base image the digest that its tag stands for today: in the Dockerfiles' arguments, and in
# docker-compose.yml's defaults. Run again, it brings the digests up to date. It needs a registry and one of
# `crane`, `skopeo` or `docker buildx`; without them it changes nothing and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
files=(Dockerfile.proxy Dockerfile.admin docker-compose.yml .env.example)

# digest prints the digest of the image named, over all architectures.
digest() {
  if command -v crane >/dev/null 2>&1; then
    crane digest "$1"
  elif command -v skopeo >/dev/null 2>&1; then
    skopeo inspect --no-tags --raw "docker://$1" | sha256sum | sed 's/^\([0-9a-f]*\).*/sha256:\1/'
  elif docker buildx version >/dev/null 2>&1; then
    docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'
  else
    echo 'missing: one of crane, skopeo or docker buildx, to ask the registry' >&2
    return 1
  fi
}

# images prints the base images that the files name, without digests, each once.
images() {
  sed -nE \
    -e 's/^ARG (BUILD|RUN|NODE)_IMAGE=([^@[:space:]]+).*/\2/p' \
    -e 's/.*\$\{(POSTGRES|CADDY)_IMAGE:-([^@}]+).*/\2/p' \
    Dockerfile.proxy Dockerfile.admin docker-compose.yml | sort -u
}

# All digests are asked for before the first file is changed.
pinned=()
while read -r image; do
  sum=$(digest "$image") || { echo "no digest for $image; nothing was changed" >&2; exit 1; }
  [[ $sum =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "the registry's answer for $image is no digest: $sum; nothing was changed" >&2; exit 1; }
  pinned+=("$image@$sum")
done < <(images)
[ ${#pinned[@]} -gt 0 ] || { echo 'no base image is named in the files' >&2; exit 1; }

for reference in "${pinned[@]}"; do
  image=${reference%@*}
  # The name's dots are meant as dots.
  sed -i -E "s#(=|:-)${image//./\\.}(@sha256:[0-9a-f]{64})?([[:space:]}]|\$)#\1$reference\3#" "${files[@]}"
  echo "$reference"
done
