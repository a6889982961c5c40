#!/bin/bash
# Ready or not, from the models' status: models_available.sh MODEL…  (REST_PORT: the server's REST port, 8501)
# The status page answers 200 for a model that is still loading or that failed, so its text decides. Any AVAILABLE
# version will do: while the next one loads, the one before it serves. The stock image has neither curl nor Python.
for model in "$@"; do
  exec 3<>"/dev/tcp/127.0.0.1/${REST_PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$model" >&3
  if ! grep -Eq '"state": *"AVAILABLE"' <&3; then
    echo "$model: no version is AVAILABLE"
    exit 1
  fi
  exec 3>&-
done
