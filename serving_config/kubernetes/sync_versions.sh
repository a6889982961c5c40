#!/bin/sh
# Brings the versions under SOURCE/<model>/<number>/ to TARGET/<model>/<number>/: sync_versions.sh once|follow MODEL…
# A server looks at TARGET every second and must never see half a version: each is copied to TARGET/.incoming, on the
# same volume, and renamed. What SOURCE no longer holds is removed, unless SOURCE holds nothing at all (a lost mount).
# SOURCE is a mounted volume: NFS, a shared disk, or a bucket through its CSI driver. Where versions arrive there other
# than by a rename, as in a bucket, upload the file COMPLETE into each as the last, and set MARKER=COMPLETE.
set -eu
SOURCE=${SOURCE:-/source}
TARGET=${TARGET:-/models}
PERIOD=${PERIOD:-30}
MARKER=${MARKER:-saved_model.pb}

versions() {  # of a model's folder: its sub-folders named with an integer
  for path in "$1"/*/; do
    name=$(basename "$path")
    case $name in *[!0-9]*) ;; *) echo "$name" ;; esac
  done
}

bring() {  # model version
  partial=$TARGET/.incoming/$1-$2
  rm -rf "$partial"
  mkdir -p "$TARGET/.incoming" "$TARGET/$1"
  if cp -r "$SOURCE/$1/$2" "$partial" && mv "$partial" "$TARGET/$1/$2"; then
    echo "$1 $2: brought"
  else
    rm -rf "$partial"
    echo "$1 $2: could not be copied, is tried again" >&2
    return 1
  fi
}

remove() {  # model version; hidden first, so that no server sees half of it go
  gone=$TARGET/.incoming/$1-$2.gone
  mkdir -p "$TARGET/.incoming"
  mv "$TARGET/$1/$2" "$gone"
  rm -rf "$gone"
  echo "$1 $2: removed"
}

sync_model() {
  there=$(versions "$SOURCE/$1")
  for version in $there; do
    if [ -e "$SOURCE/$1/$version/$MARKER" ] && [ ! -d "$TARGET/$1/$version" ]; then
      bring "$1" "$version" || failed=1
    fi
  done
  if [ -z "$there" ]; then
    echo "$1: no version in $SOURCE/$1, nothing is changed" >&2
    failed=1
    return
  fi
  for version in $(versions "$TARGET/$1"); do
    [ -d "$SOURCE/$1/$version" ] || remove "$1" "$version"
  done
}

mode=$1
shift
while :; do
  failed=0
  for model in "$@"; do
    sync_model "$model"
  done
  [ "$mode" = follow ] || exit "$failed"
  sleep "$PERIOD"
done
