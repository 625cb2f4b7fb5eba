#!/bin/bash
# quickstart.sh up | down | status : berth on this machine in one command, as `make demo` and `make demo-down` run it.
#
# up    builds berth, makes certificates, starts an agent on 127.0.0.1:7443, runs nginx in a container and fetches its page.
#       Safe to run again: what is there is used.
# down  stops it and removes everything that `up` has made, except the build.
#
# BERTH_DEMO_DIR        where everything is kept            /var/lib/berth-demo
# BERTH_DEMO_PORT       the agent's port on 127.0.0.1       7443
# BERTH_DEMO_HTTP       the port that nginx is published on 8080
# BERTH_DEMO_IMAGE      an image to run instead; by default docker.io/library/nginx when the hub answers, else
#                       one made from Debian's packages and served by Debian's docker-registry on loopback
# BERTH_DEMO_REGISTRY   address of that registry            127.0.0.1:5056
# BERTH_DEMO_BIN        folder of a built berthd and berthctl: nothing is built then
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

dir=${BERTH_DEMO_DIR:-/var/lib/berth-demo}
port=${BERTH_DEMO_PORT:-7443}
http=${BERTH_DEMO_HTTP:-8080}
registry=${BERTH_DEMO_REGISTRY:-127.0.0.1:5056}
name=demo-nginx
bin=${BERTH_DEMO_BIN:-${CARGO_TARGET_DIR:-target}/release}
bin=$(realpath -m "$bin")
berthd=$bin/berthd
berthctl=$bin/berthctl
export BERTH_CONFIG=$dir/config.toml
export BERTH_TEST_DIR=$dir/registry BERTH_TEST_REGISTRY=$registry

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf 'hint: %s\n' "$2" >&2; exit 1; }
shown() { printf '$ %s\n' "${*/#$berthctl/berthctl}"; "$@"; }
# Without the advice that follows: the demo copies nothing to other hosts.
brief() {
  local said
  printf '$ %s\n' "${*/#$berthctl/berthctl}"
  said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
  sed -n 1,2p <<<"$said"
}
as_root() { [ "$(id -u)" = 0 ] || fail "berth makes namespaces and mounts: this takes root" "sudo make demo"; }
# The pid file may be older than the process that has its number now.
agent_pid() {
  local pid
  pid=$(cat "$dir/berthd.pid" 2>/dev/null) || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "--config $dir/berthd.toml" && echo "$pid"
}
registry_stop() { [ ! -d "$BERTH_TEST_DIR" ] || tests/fixtures/registry.sh stop; }

build() {
  if [ -n "${BERTH_DEMO_BIN:-}" ]; then
    [ -x "$berthd" ] && [ -x "$berthctl" ] || fail "no berthd and berthctl in BERTH_DEMO_BIN ($bin)"
    return
  fi
  command -v cargo >/dev/null || fail "cargo is not installed" "https://rustup.rs, toolchain 1.95 or newer"
  say "installing what the demo needs from Debian's packages"
  tests/fixtures/setup.sh
  say "building (some minutes the first time, nothing when nothing has changed)"
  cargo build --release --bins
}

certificates() {
  local pki=$dir/pki
  [ ! -f "$pki/clients/demo.pem" ] || return 0
  say "making a certificate authority and two certificates"
  [ -f "$pki/ca.pem" ] || brief "$berthctl" pki --dir "$pki" init --name "berth demo CA"
  brief "$berthctl" pki --dir "$pki" issue agent demo --san localhost --san 127.0.0.1 --force
  brief "$berthctl" pki --dir "$pki" issue client demo --role admin --force
}

configure() {
  # All of the demo's objects have names of their own: a berthd that is installed on this machine is not touched.
  cat >"$dir/berthd.toml" <<TOML
data_root = "$dir/data"
run_root = "$dir/run"
[listen]
tcp = ["127.0.0.1:$port"]
[tls]
ca = "$dir/pki/ca.pem"
cert = "$dir/pki/agents/demo.pem"
key = "$dir/pki/agents/demo.key"
crl = "$dir/pki/crl.pem"
[network]
bridge = "berthdemo0"
subnet = "172.31.224.1/24"
[containers]
cgroup_parent = "berth-demo"
[registries."$registry"]
plain_http = true
TOML
  cat >"$BERTH_CONFIG" <<TOML
current = "demo"
[contexts.demo]
endpoint = "https://127.0.0.1:$port"
ca = "$dir/pki/ca.pem"
cert = "$dir/pki/clients/demo.pem"
key = "$dir/pki/clients/demo.key"
TOML
  "$berthd" --config "$dir/berthd.toml" --check-config >/dev/null
}

agent() {
  if agent_pid >/dev/null; then
    say "the agent runs already, process $(agent_pid)"
    return
  fi
  say "starting the agent on 127.0.0.1:$port (its log: $dir/berthd.log)"
  setsid "$berthd" --config "$dir/berthd.toml" </dev/null >>"$dir/berthd.log" 2>&1 &
  echo $! >"$dir/berthd.pid"
  for _ in $(seq 100); do
    agent_pid >/dev/null || break
    "$berthctl" version >/dev/null 2>&1 && return
    sleep 0.1
  done
  tail -5 "$dir/berthd.log" >&2
  fail "the agent does not answer on 127.0.0.1:$port" "another port: BERTH_DEMO_PORT=7444 make demo"
}

choose_image() {
  image=${BERTH_DEMO_IMAGE:-}
  [ -z "$image" ] || return 0
  if curl -s -m 5 -o /dev/null https://registry-1.docker.io/v2/; then
    image=docker.io/library/nginx:latest
    return
  fi
  say "no hub is reachable: serving an nginx image made from Debian's packages on $registry"
  [ -z "${BERTH_DEMO_BIN:-}" ] || tests/fixtures/setup.sh
  tests/fixtures/registry.sh start
  tests/fixtures/images.sh nginx
  image=$registry/nginx
}

run_nginx() {
  if "$berthctl" ps --format '{{.Names}}' 2>/dev/null | grep -qx "$name"; then
    say "$name runs already"
  else
    "$berthctl" rm -f "$name" >/dev/null 2>&1 || true
    say "running nginx"
    shown "$berthctl" run -d -p "$http:80" --name "$name" "$image"
  fi
  for _ in $(seq 100); do
    curl -sf -m 2 "http://127.0.0.1:$http/" >"$dir/page.html" && break
    sleep 0.1
  done
  [ -s "$dir/page.html" ] || {
    "$berthctl" logs "$name" >&2 || true
    fail "nginx does not answer on http://127.0.0.1:$http/" "another port: BERTH_DEMO_HTTP=8081 make demo"
  }
  say "its page: http://127.0.0.1:$http/"
  grep -i -m1 -o '<title>.*</title>' "$dir/page.html" || head -c 200 "$dir/page.html"
  local address
  address=$("$berthctl" inspect --format '{{.NetworkSettings.IPAddress}}' "$name")
  say "the same from the container's own address: http://$address/"
  shown curl -sf -m 5 "http://$address/"
  say "what berth says"
  shown "$berthctl" ps
  shown "$berthctl" exec "$name" nginx -v
  shown "$berthctl" logs --tail 3 "$name"
}

up() {
  as_root
  build
  install -d -m 0700 "$dir"
  certificates
  configure
  agent
  choose_image
  run_nginx
  cat <<END

== more to try
export BERTH_CONFIG=$BERTH_CONFIG PATH=$bin:\$PATH
berthctl exec -it $name sh
berthctl inspect $name
berthctl events
The container does not notice when the agent dies: kill -9 $(agent_pid); make demo
To take it all away: make demo-down
END
}

down() {
  as_root
  local pid
  if pid=$(agent_pid); then
    kill "$pid"
    for _ in $(seq 300); do
      [ -d "/proc/$pid" ] || break
      sleep 0.1
    done
    [ ! -d "/proc/$pid" ] || fail "the agent (process $pid) does not stop" "see $dir/berthd.log"
  fi
  if [ -f "$dir/berthd.toml" ]; then
    [ -x "$berthd" ] || fail "$berthd is gone, and with it the way to stop the demo's containers" "make build"
    "$berthd" --config "$dir/berthd.toml" uninstall --yes --purge
  fi
  registry_stop
  rm -rf "$dir"
  echo "the demo is gone; the build is left in ${CARGO_TARGET_DIR:-target}"
}

status() {
  if agent_pid >/dev/null; then
    echo "agent: process $(agent_pid), 127.0.0.1:$port"
    "$berthctl" ps -a
  else
    echo "agent: not running"
  fi
}

case ${1:-} in
up | down | status) "$1" ;;
*)
  sed -n 2p "$0" | cut -c3- >&2
  exit 2
  ;;
esac
