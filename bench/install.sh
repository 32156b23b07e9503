#!/bin/sh
# Installs nginx and wrk where they are missing, and leaves no service running.
set -eu

PATH="$PATH:/usr/sbin"
missing=""
command -v nginx >/dev/null 2>&1 || missing="$missing nginx-light"
command -v wrk >/dev/null 2>&1 || missing="$missing wrk"
if [ -z "$missing" ]; then
    echo "bench: nginx and wrk are installed"
    exit 0
fi

if ! command -v apt-get >/dev/null 2>&1; then
    echo "bench: no apt-get here; install by other means:$missing" >&2
    exit 1
fi
sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"

$sudo apt-get update -qq
# Run level 1 keeps invoke-rc.d from starting the service while the package is configured.
# shellcheck disable=SC2086  # a list of package names
$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing

# Under systemd the package enables its service; nginx was missing before, so this one is ours to turn off.
case "$missing" in
*nginx-light*)
    if command -v systemctl >/dev/null 2>&1; then
        $sudo systemctl disable --now nginx || true
    elif [ -s /run/nginx.pid ] && $sudo kill -0 "$(cat /run/nginx.pid)" 2>/dev/null; then
        $sudo service nginx stop
    fi
    ;;
esac
