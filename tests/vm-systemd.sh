#!/bin/bash
# vm-systemd.sh FOLDER : inside the VM of vm.sh with VM_SYSTEMD=1: the Debian package of FOLDER on a fresh Debian, its unit under a real
# systemd. Containers live through restart, crash, hang, stop and start of the agent, and through its upgrades, good and broken ones; purge
# leaves nothing. FOLDER: berth.deb (of binaries with fail points: other builds are made of it), registry/.
set -u
from=$1
. "$from/vm-package.sh"
same() { # WHAT: the container of before, untouched
  check "$1: the agent answers" "$(answers && echo yes)" yes
  check "$1: the same process" "$(field web .State.Pid)" "$web"
  check "$1: it was started once" "$(field web .State.StartCount)" 1
  check "$1: it runs" "$(berthctl exec web echo here)" here
}

systemctl restart berthd || { systemctl status berthd --no-pager; journalctl -u berthd --no-pager | tail -20; exit 1; }
check "the unit is active when the agent serves" "$(systemctl is-active berthd) $(berthctl version >/dev/null 2>&1 && echo serves)" "active serves"
check "enabled at boot" "$(systemctl is-enabled berthd)" enabled

berthctl run -d --name web --network none "$image" sh -c 'i=0; while :; do i=$((i+1)); echo line $i; sleep .2; done' >/dev/null
web=$(field web .State.Pid) first=$(main_pid)
check "a container runs" "$(berthctl exec web echo here)" here
check "its root is nobody on the host" "$([ "$(awk '/^Uid:/ { print $2 }' "/proc/$web/status")" -ge 65536 ] && echo so)" so
check "it has the least limit of cores, as what joins it" "$(berthctl exec web awk '/core file/ { print $5, $6 }' /proc/self/limits)" "1 1"
group() { sed -n 's/^[0-9]*:memory://p' "/proc/$1/cgroup" | grep . || sed -n 's/^0:://p' "/proc/$1/cgroup"; }
mine=$(group "$first") its=$(group "$web")
check "its cgroup is not the agent's" "$([ "$its" != "$mine" ] && { [ "$mine" = / ] || [ "${its#"$mine"/}" = "$its" ]; } && echo so)" so

systemctl restart berthd; same "restart"
check "restart: a new agent" "$([ "$(main_pid)" != "$first" ] && echo yes)" yes

second=$(main_pid); systemctl kill --kill-whom=main -s KILL berthd; sleep 3; same "killed"
check "killed: systemd started another" "$([ "$(main_pid)" != "$second" ] && systemctl is-active berthd)" active

systemctl reload berthd; same "reload"

mkdir -p /run/systemd/system/berthd.service.d
printf '[Service]\nWatchdogSec=8\n' > /run/systemd/system/berthd.service.d/watchdog.conf
systemctl daemon-reload; systemctl restart berthd; same "shorter watchdog"
hung=$(main_pid); sleep 20
check "the watchdog leaves a live agent alone" "$(main_pid)" "$hung"
kill -STOP "$hung"; for _ in $(seq 120); do now=$(main_pid); [ "$now" != "$hung" ] && [ "$now" != 0 ] && break; sleep .5; done
same "hung"
check "hung: systemd replaced it" "$([ "$(main_pid)" != "$hung" ] && systemctl show -P NRestarts berthd | grep -c '[1-9]')" 1

systemctl stop berthd
check "stopped: the container goes on" "$(test -d "/proc/$web" && systemctl is-active berthd)" inactive
check "stopped: the unit does not wait for it" "$(systemctl show -P Result berthd)" success
systemctl start berthd; same "started again"
lines=$(berthctl logs web | sed 's/line //')
check "no line of its log is lost or doubled" "$(awk 'NR != $1 { bad = 1 } END { print bad + 0, (NR > 50) }' <<<"$lines")" "0 1"

# Upgrades over the network, under the eyes of the service manager. Another build is the same file with its traits behind its end.
berthctl pki release-key --algorithm ed25519 --dir $pki >/dev/null
install -m 644 $pki/release.pub /etc/berth/pki/release.pub
printf '\n[upgrade]\npublic_key = "/etc/berth/pki/release.pub"\n' >> /etc/berth/berthd.toml
cp /usr/bin/berthd /root/berthd
systemctl restart berthd; same "with a release key"
version() { berthctl version -o json | jq -r .Server.Version; }
build() { # VERSION TRAITS: a signed program
  { cat /root/berthd; printf '\nberth-test:version=%s%s\n' "$1" "$2"; } > "/root/berthd-$1"
  berthctl agent sign "/root/berthd-$1" --key $pki/release.key --release-version "$1" >/dev/null
}
upgrade() { berthctl agent upgrade --confirm-within "$2" "/root/berthd-$1" > /run/upgrade.log 2>&1; status=$?; cat /run/upgrade.log; }

# It needs longer for its start than the watchdog usually waits.
build 9.0.0 ";fail=slow"; before=$(main_pid) restarts=$(systemctl show -P NRestarts berthd)
upgrade 9.0.0 120s
check "upgraded" "$status $(version)" "0 9.0.0"; same "upgraded"
check "upgraded: the pid is still the unit's" "$(main_pid)" "$before"
check "upgraded: systemd restarted nothing" "$(systemctl show -P NRestarts berthd) $(systemctl is-active berthd)" "$restarts active"
sleep 20
check "upgraded: the watchdog hears the new program" "$(main_pid) $(systemctl is-active berthd)" "$before active"
check "upgraded: no watcher is left" "$(pgrep -fc upgrade-watch)" 0
build 9.0.5 ""; upgrade 9.0.5 120s
check "upgraded again" "$status $(version) $(main_pid)" "0 9.0.5 $before"; same "upgraded again"
systemctl restart berthd; same "restarted after the upgrade"
check "the upgrade stays" "$(version)" 9.0.5

for fail in crash exit hang; do
  build 9.1.0 ";fail=$fail"
  upgrade 9.1.0 15s
  check "$fail: it is said that it was rolled back" "$status $(grep -c 'rolled back' /run/upgrade.log)" "1 1"
  same "$fail"
  check "$fail: the old program, under systemd" "$(version) $(systemctl is-active berthd) $(readlink "/proc/$(main_pid)/exe")" "9.0.5 active /usr/bin/berthd"
  check "$fail: no watcher is left" "$(sleep 6; pgrep -fc upgrade-watch)" 0
  sleep 20 # the unit's limit of starts
done
before=$(main_pid)
build 9.2.0 ""; upgrade 9.2.0 120s
check "upgraded behind failures" "$status $(version) $(main_pid)" "0 9.2.0 $before"; same "upgraded behind failures"
lines=$(berthctl logs web | sed 's/line //')
check "no line is lost or doubled by upgrades" "$(awk 'NR != $1 { bad = 1 } END { print bad + 0, (NR > 200) }' <<<"$lines")" "0 1"

dpkg -i "$from/berth.deb" >/run/dpkg.log 2>&1; same "package installed over itself"
check "the package's program runs again" "$(version)" "$(/root/berthd --version | sed 's/.* //')"

dpkg -P berth >/run/dpkg.log 2>&1; status=$?
check "purged" $status 0
check "no process is left" "$(pgrep -fc '^(/usr/bin/berthd|berth-shim)')$(test -d "/proc/$web" && echo container)" 0
check "no file is left" "$(ls -A /var/lib/berth; ls -d /run/berth /etc/berth /usr/bin/berthd* /usr/bin/.berthd* 2>/dev/null)" ""
umount /var/lib/berth; rmdir /var/lib/berth
check "no mount is left" "$(awk '$5 ~ /berth/' /proc/self/mountinfo)" ""
check "no link is left" "$(ip -br link | grep -cE 'berth|veth')" 0
check "no unit is left" "$(systemctl list-units --all --plain --no-legend 'berth*' | grep -vc not-found)" 0

echo "vm-systemd on $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p'): $checks checks, $failed failed"
[ $failed = 0 ]
