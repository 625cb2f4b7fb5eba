#!/bin/bash
# systemd.sh : vm-systemd.sh without a VM, in minutes: Debian 12's systemd as the first process of namespaces of its own, on a root of its own,
# with this machine's kernel and cgroups. BERTH_BIN=target/debug, which need the fail points. The test registry's images must be there.
# Nothing of it stays: the root is below an overlay, groups are named berth-systemd-PID, and the host's settings are read-only in there.
set -eu
cd "$(dirname "$0")/.."
. tests/fixtures/env.sh
bin=${BERTH_BIN:-target/debug} root=$BERTH_TEST_DIR/systemd-bookworm name=berth-systemd-$$
if [ ! -e "$root/ready" ]; then
  rm -rf "$root"
  mmdebstrap --quiet --mode=root --variant=minbase \
    --include=systemd-sysv,dbus,kmod,iproute2,curl,jq,procps,docker-registry,ca-certificates bookworm "$root"
  rm -f "$root/etc/systemd/system/multi-user.target.wants/docker-registry.service"
  # What is the host's: its settings, modules, devices and clock.
  for unit in systemd-{sysctl,modules-load,udevd,udev-trigger,remount-fs,binfmt,random-seed,firstboot,logind,pstore}.service \
    systemd-udevd-{control,kernel}.socket proc-sys-fs-binfmt_misc.automount {dev-hugepages,dev-mqueue,sys-kernel-debug,sys-kernel-tracing}.mount \
    {sys-kernel-config,sys-fs-fuse-connections}.mount modprobe@.service getty.target console-getty.service apt-daily{,-upgrade}.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  cat > "$root/etc/systemd/system/check.service" <<'U'
[Unit]
After=basic.target
[Service]
Type=oneshot
Environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root TERM=dumb
ExecStart=/bin/bash -c '/package/vm-systemd.sh /package > /package/log 2>&1; echo $? > /package/status'
U
  mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/package"
  ln -sf ../check.service "$root/etc/systemd/system/multi-user.target.wants/check.service"
  ln -sf /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  : > "$root/etc/fstab"; touch "$root/ready"
fi

work=$(mktemp -d "$BERTH_TEST_DIR/systemd-XXXXXX"); mkdir "$work"/{upper,work,root}
PACKAGE_SEEN=/package tests/fixtures/package.sh "$bin" "$work/package"
: > "$work/package/log"

# This shell's own group in every hierarchy, so that the namespace below sees no other.
hierarchies=$(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts)
for tree in $hierarchies; do
  mkdir "$tree/$name"
  for file in cpuset.cpus cpuset.mems; do [ ! -e "$tree/$file" ] || [ -s "$tree/$name/$file" ] || cat "$tree/$file" > "$tree/$name/$file"; done
done
inner=
clean() {
  [ -z "$inner" ] || kill -9 "$inner" 2>/dev/null || true
  wait "$inner" 2>/dev/null || true
  local tree left
  for _ in $(seq 100); do
    left=
    for tree in $hierarchies; do
      [ ! -d "$tree/$name" ] || find "$tree/$name" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [ ! -d "$tree/$name" ] || left=$tree
    done
    [ -n "$left" ] || break; sleep .1
  done
  rm -rf "$work"
}
trap clean EXIT

cat > "$work/boot" <<'I'
set -eu
work=$1 base=$2; shift 2
mount -t overlay overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work" "$work/root"
cd "$work/root"
mount --bind "$work/package" package
awk '$3 ~ /^cgroup2?$/ { print $2, $3, $4 }' /proc/self/mounts > run/hierarchies
mount -t proc proc proc; mount -t sysfs sysfs sys
[ "$(wc -l < run/hierarchies)" = 1 ] || mount -t tmpfs -o mode=755 groups sys/fs/cgroup
while read -r at type options; do
  mkdir -p ".$at"
  case $type in cgroup2) options=rw ;; *) options=$(tr , '\n' <<<"$options" | grep -vE '^(rw|relatime|nosuid|nodev|noexec|xattr|release_agent=.*)$' | paste -sd,) ;; esac
  case $options in name=*) options=none,$options ;; esac
  mount -t "$type" -o "$options" cgroup ".$at"
done < run/hierarchies
mount -t tmpfs -o mode=755 dev dev; mkdir dev/pts dev/shm
while read -r node major minor; do mknod -m 666 "dev/$node" c "$major" "$minor"; done <<D
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
D
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts; ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
mount -t tmpfs shm dev/shm; mount -t tmpfs run run; mount -t tmpfs tmp tmp
for settings in kernel fs vm; do mount --bind proc/sys/$settings proc/sys/$settings; mount -o remount,bind,ro proc/sys/$settings; done
ip link set lo up; hostname vm
# Not chroot(8): whoever is in one makes no user namespaces (user_namespaces(7)).
pivot_root . .; umount -l .
exec /usr/bin/env -i container=berth PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=0
I
(
  for tree in $hierarchies; do echo $BASHPID > "$tree/$name/cgroup.procs"; done
  exec unshare --mount --pid --ipc --uts --net --cgroup --fork --kill-child --propagation private bash "$work/boot" "$work" "$root"
) </dev/null >"$work/boot.log" 2>&1 &
inner=$!
for _ in $(seq "${SECONDS_AT_MOST:-900}"); do [ -e "$work/package/status" ] && break; kill -0 "$inner" 2>/dev/null || break; sleep 1; done
cat "$work/package/log"
[ -e "$work/package/status" ] || { echo "systemd.sh: no end:" >&2; tail -20 "$work/boot.log" >&2; exit 124; }
exit "$(cat "$work/package/status")"
