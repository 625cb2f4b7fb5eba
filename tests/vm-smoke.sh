#!/bin/bash
# vm-smoke.sh FOLDER : inside the VM of vm.sh, which has cgroup v2 and nothing else: berthd and berthctl of FOLDER, from an empty disk to
# containers with limits, device rules, an OOM kill, exec, a killed agent, stop and removal, and nothing left behind. Once with the agent at
# the root of the cgroup tree, once in the leaf of a group that is delegated to it, as systemd 254 does, and in such a group itself, as before.
# BERTH_VM_LAYERS=erofs|directory: which layer store the kernel must have got.
set -u
bin=$1
. "$(dirname "$0")/fixtures/env.sh"
fixtures=$(dirname "$0")/fixtures
work=$BERTH_TEST_DIR/run/vm-smoke image=$BERTH_TEST_REGISTRY/busybox cgroups=/sys/fs/cgroup
checks=0 failed=0 agent=

check() { # WHAT FOUND WANTED
  checks=$((checks + 1))
  if [ "$2" = "$3" ]; then echo "ok: $1"; else failed=$((failed + 1)); echo "FAILED: $1: '$2' instead of '$3'"; fi
}
ctl() { "$bin/berthctl" "$@" </dev/null; }
field() { ctl inspect "$1" | jq -r ".[0] | $2"; }

start_agent() { # GROUP: a cgroup to start in, below the tree's root
  (echo $BASHPID > "$cgroups/$1/cgroup.procs"; exec "$bin/berthd" --config "$work/berthd.toml" >>"$work/agent.log" 2>&1) &
  agent=$!
  for _ in $(seq 300); do ctl version >/dev/null 2>&1 && return; kill -0 $agent 2>/dev/null || break; sleep .2; done
  echo "the agent does not answer:"; tail -20 "$work/agent.log"; exit 1
}
stop_agent() { kill "-$1" "$agent"; wait "$agent" 2>/dev/null; }

limits() { # PARENT: where the container's group must be
  ctl run -d --name web -m 64m --cpus 0.5 --pids-limit 33 --network none "$image" sh -c 'trap "" TERM; while :; do sleep 1; done' >/dev/null
  local id group; id=$(field web .Id); group=$(field web '.CgroupPaths[0]')
  check "the group is the agent's to make" "$group" "$cgroups/$1/$id"
  check "memory.max" "$(cat "$group/memory.max")" 67108864
  check "cpu.max" "$(cat "$group/cpu.max")" "50000 100000"
  check "pids.max" "$(cat "$group/pids.max")" 33
  check "the workload is in it" "$(grep -c "^$(field web .State.Pid)$" "$group/cgroup.procs")" 1
  check "its own group is the root it sees" "$(ctl exec web cat /proc/self/cgroup)" "0::/"
  check "it can read its limit" "$(ctl exec web cat /sys/fs/cgroup/memory.max)" 67108864
  check "and not write it" "$(ctl exec web sh -c 'echo max > /sys/fs/cgroup/memory.max' 2>&1 | grep -c Read-only)" 1
  check "no more processes than allowed" \
    "$(ctl run --rm --pids-limit 9 --network none "$image" sh -c 'for i in $(seq 20); do sleep 1 & done' 2>&1 | grep -c "can't fork")" 1
}

devices() {
  local out; out=$(ctl run --rm --network none --userns host "$image" sh -c \
    'mknod /n c 1 3 && echo x > /n && echo null; mknod /k b 7 0 && echo made; cat /k; mknod /m c 1 1 && cat /m' 2>&1)
  check "allowed devices are used, others are made" "$(grep -cE '^(null|made)$' <<<"$out")" 2
  check "forbidden ones are not opened" "$(grep -c 'Operation not permitted' <<<"$out")" 2
  check "a given device is opened" \
    "$(ctl run --rm --network none --device /dev/loop0:/dev/l:r "$image" sh -c 'head -c 0 /dev/l && echo read; : > /dev/l' 2>&1 |
      grep -cE '^read$|Operation not permitted')" 2
}

memory() {
  ctl run --name oom -m 16m --memory-swap 16m --network none "$image" tail /dev/zero >/dev/null 2>&1
  check "exit code of an OOM kill" $? 137
  check "the kernel's OOM killer is named" "$(field oom .State.OOMKilled)" true
  ctl rm oom >/dev/null
}

network() {
  check "lo of --network none answers" "$(ctl run --rm --network none "$image" ping -c 1 127.0.0.1 | grep -c ' 0% packet loss')" 1
  ctl run -d --name net -p 127.0.0.1:8099:80 "$image" sh -c 'mkdir /w; echo page > /w/index.html; httpd -f -h /w' >/dev/null
  check "a published port" "$(curl -sf --retry 20 --retry-all-errors --retry-delay 1 http://127.0.0.1:8099/)" page
  ctl rm -f net >/dev/null
}

changes() { # while it runs: limits, freezer, figures; what cgroup v2 does in other files than v1
  local group; group=$(field web '.CgroupPaths[0]')
  ctl update -m 96m --memory-swap 96m --cpus 0.25 --pids-limit 44 web >/dev/null; check "update" $? 0
  check "memory.max, cpu.max and pids.max are the new ones" "$(cat "$group"/{memory,cpu,pids}.max | tr '\n' ' ')" "100663296 25000 100000 44 "
  ctl update -m 1m web >/dev/null 2>&1; check "a limit that is too small is refused" "$?$(cat "$group/memory.max")" 1100663296
  ctl pause web >/dev/null; check "pause" "$(grep frozen "$group/cgroup.events") $(field web .State.Status)" "frozen 1 paused"
  check "no exec into a paused one" "$(ctl exec web true 2>&1 | grep -q unpause && echo refused)" refused
  ctl unpause web >/dev/null; check "unpause" "$(grep frozen "$group/cgroup.events") $(field web .State.Status)" "frozen 0 running"
  local stats; stats=$(ctl stats --no-stream -o json web | jq -c '.[0] // .')
  check "stats: pids, memory and cpu" "$(jq '[.. | numbers] | length > 5' <<<"$stats")" true
  check "stats: pressure" "$(jq -c . <<<"$stats" | grep -ci 'psi\|pressure')" 1
  check "top" "$(ctl top web | grep -q sleep && echo listed)" listed
  ctl rename web webs >/dev/null; ctl rename webs web >/dev/null; check "rename there and back" "$(field web .State.Status)" running
}

supervision() {
  ctl run -d --name again --restart on-failure:2 --network none "$image" sh -c 'exit 9' >/dev/null
  for _ in $(seq 60); do [ "$(field again .State.Status)" = exited ] && break; sleep .5; done
  check "on-failure:2: two more tries" "$(field again .State.StartCount) $(field again .State.ExitCode)" "3 9"
  ctl run -d --name checked --health-cmd 'test -e /good' --health-interval 1s --health-retries 1 --network none "$image" sleep 1000 >/dev/null
  for _ in $(seq 60); do [ "$(field checked .State.Health.Status)" = unhealthy ] && break; sleep .5; done
  check "unhealthy" "$(field checked .State.Health.Status)" unhealthy
  ctl exec checked touch /good
  for _ in $(seq 60); do [ "$(field checked .State.Health.Status)" = healthy ] && break; sleep .5; done
  check "healthy" "$(field checked .State.Health.Status)" healthy
  check "diff" "$(ctl diff checked)" "A /good"
  ctl cp checked:/good "$work/good"; check "cp" "$(ls "$work/good")" "$work/good"
  check "doctor finds nothing bad but what the VM lacks" "$(ctl node doctor -o json | jq -r '.[] | select(.Verdict == "bad") | .Name' | grep -v certificates)" ""
  ctl rm -f again checked >/dev/null
}

life() {
  check "exit code of an exec" "$(ctl exec web sh -c 'exit 3' >/dev/null 2>&1; echo $?)" 3
  stop_agent KILL; start_agent "$1"
  check "a container outlives its agent" "$(field web .State.Status)" running
  check "exec after it" "$(ctl exec web echo in)" in
  # A child of its own session would survive a kill of process 1 only: all of the group ends.
  ctl stop -t 0 web >/dev/null
  check "exit code of a killed container" "$(field web .State.ExitCode)" 137
  ctl rm web >/dev/null
}

nothing_left() { # PARENT
  local left; for _ in $(seq 100); do
    left=$(find "$cgroups/$1" -mindepth 1 -maxdepth 1 -type d; pgrep -a berth-shim | grep -v ' spare-'; grep -E "^(berth|erofs) " /proc/mounts
      find "$work/data/containers" /run/berth/containers -mindepth 1; ps -eo pid=,stat=,comm= | grep " Z")
    [ -z "$left" ] && break; sleep .1
  done
  check "nothing is left" "$left" ""
}

# The kernel takes EROFS files from disks, not from memory.
mkdir -p "$work"; truncate -s 1G "$work.img"; mkfs.ext4 -q "$work.img"; modprobe -q loop; mount -o loop "$work.img" "$work"
cat > "$work/berthd.toml" <<T
data_root = "$work/data"
[network]
subnet = "172.31.77.1/24"
[registries."$BERTH_TEST_REGISTRY"]
plain_http = true
T
uname -r
"$fixtures/registry.sh" start || exit 1
start_agent .
ctl info | grep -iE 'cgroup|layer|warning|feature|unavailable' | sed 's/^/  /'
[ -z "${BERTH_VM_LAYERS:-}" ] || check "layer store" "$(ctl info --format json | jq -r '.. | .LayerStore? // empty')" "$BERTH_VM_LAYERS"
ctl pull -q "$image" >/dev/null; check "pull" $? 0
limits berth; changes; devices; memory; network; supervision; life .; nothing_left berth
stop_agent TERM

mkdir -p "$cgroups/berthd.service/agent"
start_agent berthd.service/agent
limits berthd.service/berth; life berthd.service/agent; nothing_left berthd.service/berth
stop_agent TERM
mkdir "$cgroups/old.service"
start_agent old.service
limits berth; life old.service; nothing_left berth
stop_agent TERM
check "nothing the agent would complain about" "$(grep -E ' (ERROR|WARN) |panicked' "$work/agent.log" | head -5)" ""
"$fixtures/registry.sh" stop
[ $failed = 0 ] || { echo "--- the agent's log"; tail -40 "$work/agent.log"; }
echo "$checks checks, $failed failed"
[ $failed = 0 ]
