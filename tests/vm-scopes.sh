#!/bin/bash
# vm-scopes.sh FOLDER : inside the VM of vm.sh with VM_SYSTEMD=1: containers whose cgroups systemd makes (containers.cgroup_driver = "systemd"),
# under a real systemd on pure cgroup v2. FOLDER as for vm-systemd.sh.
set -u
from=$1
. "$from/vm-package.sh"

unit() { echo "berth-$(field "$1" .Id).scope"; }
shown() { systemctl show -P "$2" "$(unit "$1")"; }
group() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(field "$1" .State.Pid)/cgroup")"; }
file() { cat "$(group "$1")/$2"; }
gone() { for _ in $(seq 100); do [ "$(systemctl show -P LoadState "$1")" = not-found ] && echo gone && return; sleep .1; done; systemctl status --no-pager "$1"; }
ended() { for _ in $(seq 200); do [ "$(field "$1" .State.Running)" = false ] && return; sleep .1; done; }
units() { systemctl list-units --all --plain --no-legend "$1" | wc -l; }
loop='trap "exit 7" TERM; while :; do sleep 1 & wait $!; done'

printf '\n[containers]\ncgroup_driver = "systemd"\n' >> /etc/berth/berthd.toml
systemctl restart berthd || { systemctl status berthd --no-pager; journalctl -u berthd --no-pager | tail -20; exit 1; }
check "the agent answers" "$(answers && echo yes)" yes
check "the agent says who makes cgroups" "$(berthctl info --format '{{.CgroupDriver}}')" systemd
check "no warning of it" "$(journalctl -u berthd --no-pager | grep -c 'no container can be started')" 0

berthctl run -d --name web --network none --memory 64m --cpus 0.5 --pids-limit 50 --cpu-shares 512 --cpuset-cpus 0 "$image" sh -c "$loop" >/dev/null
web=$(field web .State.Pid) scope=$(unit web)
check "a scope" "$(systemctl is-active "$scope")" active
check "in its slice" "$(group web)" "/sys/fs/cgroup/system.slice/$scope"
check "with its name" "$(shown web Description)" "berth container web"
check "delegated" "$(shown web Delegate)" yes
check "nobody but the container is in it" "$(for p in $(file web cgroup.procs); do cat "/proc/$p/comm"; done 2>/dev/null | grep -vxE 'sh|sleep')" ""
limits() { # WHAT MEMORY TASKS QUOTA WEIGHT CPU.MAX
  check "$1: properties" "$(shown web MemoryMax) $(shown web TasksMax) $(shown web CPUQuotaPerSecUSec) $(shown web CPUWeight) $(shown web AllowedCPUs)" "$2 $3 $4 $5 0"
  check "$1: files" "$(file web memory.max) $(file web pids.max) $(file web cpu.max) $(file web cpu.weight) $(file web cpuset.cpus)" "$2 $3 $6 $5 0"
}
weight=$(file web cpu.weight)
limits "limits" 67108864 50 500ms "$weight" "50000 100000"
systemctl daemon-reload; limits "daemon-reload" 67108864 50 500ms "$weight" "50000 100000"
berthctl update --memory 32m --cpus 0.75 --pids-limit 20 web >/dev/null
limits "update" 33554432 20 750ms "$weight" "75000 100000"
systemctl daemon-reload; limits "update and daemon-reload" 33554432 20 750ms "$weight" "75000 100000"
check "systemctl status" "$(systemctl status --no-pager "$scope" | grep -oE "berth container web|$web sh|Memory:" | sort -u | wc -l)" 3
check "systemd-cgls" "$(systemd-cgls --no-pager "/system.slice/$scope" | grep -c "$web sh")" 1
check "exec" "$(berthctl exec web cat /proc/self/cgroup)" "0::/"
check "exec is in the group" "$(berthctl exec -d web sleep 77; for p in $(file web cgroup.procs); do tr '\0' ' ' < "/proc/$p/cmdline"; done 2>/dev/null | grep -c 'sleep 77')" 1
check "stats" "$(berthctl stats --no-stream --format '{{.MemUsage}}' web | grep -cE '^[1-9].* / 32MiB')" 1
berthctl pause web >/dev/null; systemctl daemon-reload
check "paused" "$(file web cgroup.freeze) $(field web .State.Status)" "1 paused"
berthctl unpause web >/dev/null; check "unpaused" "$(file web cgroup.freeze) $(berthctl exec web echo on)" "0 on"

before=$(main_pid); systemctl kill --kill-whom=main -s KILL berthd; sleep 3; answers
check "killed: another agent, the same process" "$([ "$(main_pid)" != "$before" ] && field web .State.Pid)" "$web"
check "killed: exec" "$(berthctl exec web echo here)" here
berthctl update --memory 48m web >/dev/null; limits "killed: update" 50331648 20 750ms "$weight" "75000 100000"

systemctl stop "$scope"; ended web
check "stopped by systemctl: the agent has its exit code" "$(field web '.State.ExitCode, .State.OOMKilled' | paste -sd' ')" "7 false"
check "stopped by systemctl: the unit is" "$(gone "$scope")" gone
berthctl start web >/dev/null
check "started again: the same scope, the updated limits" "$(systemctl is-active "$scope") $(file web memory.max)" "active 50331648"
berthctl restart web >/dev/null
check "restarted" "$(systemctl is-active "$scope") $(berthctl exec web echo here)" "active here"

berthctl run -d --name deaf --network none --stop-timeout 2 --restart always "$image" sleep 1000 >/dev/null
systemctl stop "$(unit deaf)"; for _ in $(seq 100); do [ "$(field deaf .State.StartCount)" = 2 ] && break; sleep .2; done
check "a policy starts it again behind systemctl stop" "$(field deaf .State.StartCount) $(systemctl is-active "$(unit deaf)")" "2 active"

berthctl run -d --name nested --network none --cgroup-parent berthtest-inner.slice "$image" sleep 1000 >/dev/null
check "nested slices" "$(group nested)" "/sys/fs/cgroup/berthtest.slice/berthtest-inner.slice/$(unit nested)"
check "inspect tells the slice" "$(field nested '.HostConfig.CgroupParent // .CgroupParent')" berthtest-inner.slice
check "a path is no slice" "$(berthctl create --cgroup-parent /a/b "$image" 2>&1 | grep -c -- '--cgroup-parent.*must be the name of a slice')" 1
berthctl run -d --name tight --network none --userns host --pids-limit 1 "$image" sleep 1000 >/dev/null
check "a limit of one process" "$(file tight pids.max) $(file tight pids.current) $(shown tight TasksMax)" "1 1 1"
modprobe loop
together=--oom-group
if [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -lt 253 ]; then
  check "an old systemd keeps no group" "$(berthctl run --rm --network none --oom-group "$image" true 2>&1 | grep -c 'takes systemd 253')" 1
  together=
fi
berthctl run -d --name raw --network none --userns host --cgroup-conf memory.high=50331648 --memory 96m $together "$image" sleep 1000 >/dev/null
check "a file that systemd writes as it likes is refused" "$(berthctl run --rm --network none --cgroup-conf cpu.weight.nice=3 "$image" true 2>&1 | grep -c -- '--cgroup-conf.*cpu.weight.nice')" 1
zswap=
[ ! -e /sys/fs/cgroup/system.slice/memory.zswap.max ] || zswap="--cgroup-conf memory.zswap.max=4096"
# shellcheck disable=SC2086
berthctl run -d --name exact --network none --userns host --cpus 0.12345 --cgroup-conf cpu.idle=1 $zswap "$image" sleep 1000 >/dev/null
berthctl update --pids-limit 33 exact >/dev/null
exact() { file exact cpu.idle; file exact pids.max; [ -z "$zswap" ] || file exact memory.zswap.max | sed 's/^4096$//'; }
check "update: what has no such limit stays" "$(exact | xargs) $(file exact cpu.max)" "1 33 12345 100000"
systemctl daemon-reload; check "daemon-reload: an idle group stays idle" "$(exact | xargs)" "1 33"
berthctl rm -f exact >/dev/null
foreign() { berthctl exec raw sh -c 'rm -f /loop; mknod /loop c 10 237; cat /loop' 2>&1 | grep -o 'Operation not permitted'; }
check "devices" "$(foreign)" "Operation not permitted"
systemctl daemon-reload
check "daemon-reload: files by their names" "$(file raw memory.high) $(shown raw MemoryHigh)" "50331648 50331648"
[ -z "$together" ] || check "daemon-reload: all processes end together" "$(file raw memory.oom.group)" 1
check "daemon-reload: devices" "$(foreign)" "Operation not permitted"

seen=0; for _ in $(seq 12); do
  berthctl run --name hungry --network none --memory 16m "$image" sh -c 'tail /dev/zero' >/dev/null 2>&1
  [ "$(field hungry '.State.OOMKilled, .State.ExitCode' | paste -sd' ')" = "true 137" ] && seen=$((seen + 1))
  reason=$(field hungry .State.Reason); berthctl rm hungry >/dev/null
done
check "memory that runs out is seen" "$seen" 12
check "and told with the limit" "$(grep -c 'limit of 16777216 bytes' <<<"$reason")" 1
check "many, one after the other" "$(for i in $(seq 10); do berthctl run --rm --network none "$image" echo "$i"; done | paste -sd,)" "1,2,3,4,5,6,7,8,9,10"
check "many at once" "$(for i in $(seq 6); do berthctl run --rm --network none "$image" echo same & done | sort | uniq -c | xargs)" "6 same"
check "an exit code" "$(berthctl run --rm --network none "$image" sh -c 'exit 3'; echo $?)" 3
before=$(units 'berth-*.scope')
check "a command that is not there leaves nothing" "$(berthctl run --rm --network none "$image" /nothing >/dev/null 2>&1; echo $?; units 'berth-*.scope')" "127
$before"
# A data root in memory has idmapped mounts since Linux 6.3.
mapped=$(berthctl info --format '{{json .}}' | grep -c 'no idmapped mounts')
[ "$mapped" != 0 ] || check "a user namespace" "$(berthctl run --rm --network none --userns auto "$image" cat /proc/self/cgroup)" "0::/"

# The other driver, with containers of this one: each keeps what it has.
sed -i 's/^cgroup_driver = .*/cgroup_driver = "cgroupfs"/' /etc/berth/berthd.toml; systemctl restart berthd; answers
check "cgroupfs: the scope's container goes on" "$(berthctl exec web echo here; berthctl stats --no-stream --format '{{.Name}}' web)" "here
web"
check "cgroupfs: no slice is taken" "$(berthctl create --cgroup-parent a.slice "$image" 2>&1 | grep -c 'cgroup_driver')" 1
berthctl restart web >/dev/null
own=$(group web)
check "cgroupfs: the next start is without a scope" "${own: -70} $(gone "$scope")" "berth/$(field web .Id) gone"
sed -i 's/^cgroup_driver = .*/cgroup_driver = "systemd"/' /etc/berth/berthd.toml; systemctl restart berthd; answers
check "systemd again: the other's container goes on" "$(berthctl exec web echo here)" here

# The OCI command line.
bundle=/run/bundle; mkdir -p $bundle/rootfs
berthctl create --name files "$image" >/dev/null; berthctl export files | tar -x -C $bundle/rootfs; berthctl rm files >/dev/null
(cd $bundle; berth-runtime spec)
jq --arg loop "$loop" '.process.terminal = false | .process.args = ["sh", "-c", $loop] | .linux.cgroupsPath = "berthtest-oci.slice:oci:c1"
  | .linux.resources.memory.limit = 67108864 | .linux.resources.pids.limit = 30 | .linux.resources.cpu.quota = 33333 | .linux.resources.cpu.period = 100000' \
  $bundle/config.json > /run/config.json; mv /run/config.json $bundle/config.json
oci=/sys/fs/cgroup/berthtest.slice/berthtest-oci.slice/oci-c1.scope
check "berth-runtime: without the flag the form is refused" "$(berth-runtime create --bundle $bundle c1 2>&1 | grep -c -- 'linux.cgroupsPath.*--systemd-cgroup')" 1
berth-runtime --systemd-cgroup create --bundle $bundle c1 </dev/null >/run/c1.log 2>&1; cat /run/c1.log
check "berth-runtime: created in a scope" "$(cat $oci/cgroup.procs) $(systemctl is-active oci-c1.scope)" "$(berth-runtime state c1 | jq .pid) active"
told() { systemctl show -P MemoryMax oci-c1.scope; systemctl show -P TasksMax oci-c1.scope; cat $oci/memory.max $oci/pids.max $oci/cpu.max; }
check "berth-runtime: limits" "$(told | xargs)" "67108864 30 67108864 30 33333 100000"
berth-runtime start c1; systemctl daemon-reload
check "berth-runtime: daemon-reload" "$(told | xargs | cut -d' ' -f1-4)" "67108864 30 67108864 30"
echo "33333 100000" > $oci/cpu.max; berth-runtime update --memory 50331648 --pids-limit 40 c1
check "berth-runtime: an update leaves the other limits exact" "$(cat $oci/cpu.max)" "33333 100000"
systemctl daemon-reload
check "berth-runtime: update" "$(told | xargs | cut -d' ' -f1-4)" "50331648 40 50331648 40"
check "berth-runtime: exec" "$(berth-runtime exec c1 cat /proc/self/cgroup)" "0::/"
systemctl stop oci-c1.scope
check "berth-runtime: stopped by systemctl" "$(berth-runtime state c1 | jq -r .status) $(gone oci-c1.scope)" "stopped gone"
berth-runtime delete c1; check "berth-runtime: deleted" "$? $(berth-runtime list -q)" "0 "
berth-runtime --systemd-cgroup create --bundle $bundle c1 </dev/null >/dev/null 2>&1; berth-runtime delete -f c1
check "berth-runtime: deleted while it waits" "$? $(gone oci-c1.scope)" "0 gone"
systemd-run --quiet --scope --unit oci-c1 --slice berthtest-other.slice sleep 1000 </dev/null >/dev/null 2>&1 & other=$!
for _ in $(seq 50); do [ "$(systemctl is-active oci-c1.scope)" = active ] && break; sleep .1; done
berth-runtime --systemd-cgroup create --bundle $bundle c1 </dev/null >/dev/null 2>&1
check "berth-runtime: a unit that is somebody's is left alone" "$? $(systemctl is-active oci-c1.scope) $(berth-runtime list -q)" "1 active "
systemctl stop oci-c1.scope; wait $other; gone oci-c1.scope >/dev/null
jq '.process.args = ["/nothing"]' $bundle/config.json > /run/config.json; mv /run/config.json $bundle/config.json
berth-runtime --systemd-cgroup create --bundle $bundle c1 </dev/null >/dev/null 2>&1
check "berth-runtime: what fails leaves nothing" "$? $(gone oci-c1.scope) $(find /sys/fs/cgroup -name 'oci-c1*')" "1 gone "

berthctl rm -f web deaf nested tight raw >/dev/null; sleep 1
check "removed: no unit" "$(units 'berth-*.scope')" 0
check "removed: no unit has failed" "$(systemctl list-units --failed --plain --no-legend | grep -c berth)" 0
check "removed: no cgroup" "$(find /sys/fs/cgroup -type d -name 'berth-*.scope')" ""
check "removed: nothing is remembered" "$(ls -A /run/berth/scopes)" ""
check "the doctor finds nothing" "$(berthctl node doctor -o json | jq -r '[.[] | select(.Name == "cgroups" or .Name == "leftovers") | .Verdict] | unique | .[]')" good
berthctl run -d --name last --network none "$image" sleep 1000 >/dev/null; last=$(unit last)
systemctl stop berthd; check "the agent's end leaves the scope alone" "$(systemctl is-active "$last")" active
dpkg -P berth >/run/dpkg.log 2>&1; check "purged" "$? $(gone "$last")" "0 gone"
check "purged: no process" "$(pgrep -fc '^berth-shim')" 0

echo "vm-scopes on $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p'): $checks checks, $failed failed"
[ $failed = 0 ]
