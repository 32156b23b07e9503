#!/bin/sh
# Installs what is missing through apt and starts none of it: the packages named, or the servers that tests run against.
set -eu

missing="$*"
if [ -z "$missing" ]; then
    command -v curl >/dev/null 2>&1 || missing="$missing curl"
    command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
    [ -n "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] || missing="$missing postgresql"
    command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
    command -v npm >/dev/null 2>&1 || missing="$missing nodejs npm"
    command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
fi
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "install these packages first:$missing" >&2; exit 1; }
    sudo=sudo
fi
# Packages start their services on install unless a policy forbids it; the tests start private ones instead.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod +x "$policy"
    made=1
fi
cleanup() { [ -z "$made" ] || $sudo rm -f "$policy"; }
trap cleanup EXIT
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
