#!/bin/bash
# vm.sh COMMAND [ARG...] : runs a command as root in a small VM under software emulation, with nothing but cgroup v2.
# The machine's own root is the VM's, through virtiofs, read-only below an overlay in memory: programs and test images are all there,
# and nothing that happens inside stays, except what is written to /vmshare ($BERTH_TEST_DIR/vm/share). There is no network but loopback.
# Environment: VM_KERNEL=6.1 (Debian 12's cloud kernel) or 6.12 (Debian 13's); VM_CPUS=2 VM_MEMORY=3072 (MiB) VM_SECONDS=900, VM_KVM=1,
# VM_APPEND=more of the kernel's command line (`security=selinux selinux=1`); VM_SHARE=another folder as /vmshare, for a VM beside another.
# VM_SYSTEMD=1: a fresh Debian of the kernel's release instead of the machine's own root, with systemd as its first process; the command
# is a service there, and finds in /vmshare what it needs. VM_PACKAGES=podman,conmon: with these packages, too.
set -eu
. "$(dirname "$0")/fixtures/env.sh"
home=$BERTH_TEST_DIR/vm share=${VM_SHARE:-$BERTH_TEST_DIR/vm/share}
kernel=${VM_KERNEL:-6.1} cpus=${VM_CPUS:-2} memory=${VM_MEMORY:-3072} seconds=${VM_SECONDS:-900}
mkdir -p "$share"

# A kernel package, unpacked: nothing is installed on this machine, no boot loader is touched.
unpack() { # RELEASE: into $home/kernel-$kernel. The name of the newest package is in the dependencies of the one that has none.
  local newest="apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | tail -1"
  local debs=$home/debs-$kernel
  mkdir -p "$debs"
  if [ "$1" = "$(. /etc/os-release; echo "$VERSION_CODENAME")" ]; then
    (cd "$debs"; apt-get update -qq; apt-get download -qq "$(sh -c "$newest")" 2>/dev/null)
  else # from a root of that release, so that apt's own signature checks hold
    local other=$home/root-$1
    rm -rf "$other"; mmdebstrap --quiet --mode=root --variant=apt "$1" "$other"
    cp /etc/resolv.conf "$other/etc/resolv.conf"
    # shellcheck disable=SC2016
    chroot "$other" sh -c 'cd /tmp; apt-get update -qq; apt-get download -qq "$(sh -c "$0")"' "$newest" 2>/dev/null
    mv "$other"/tmp/linux-image-*.deb "$debs/"; rm -rf "$other"
  fi
  dpkg-deb -x "$(ls "$debs"/linux-image-*.deb | tail -1)" "$home/kernel-$kernel"; rm -rf "$debs"
  [ -d "$home/kernel-$kernel/lib/modules" ] || ln -s usr/lib "$home/kernel-$kernel/lib"
}
root=$home/kernel-$kernel
if ! ls "$root"/boot/vmlinuz-* >/dev/null 2>&1; then
  case $kernel in 6.1) unpack bookworm ;; 6.12) unpack trixie ;; *) echo "vm.sh: VM_KERNEL is 6.1 or 6.12" >&2; exit 2 ;; esac
fi
version=$(ls "$root/lib/modules" | tail -1)
[ -e "$root/lib/modules/$version/modules.dep" ] || depmod -b "$root" "$version"

# The first root: busybox, and the modules that reach the real one, in the order in which they need each other.
initrd=$home/initrd-$version
if [ ! -e "$initrd" ]; then
  tree=$(mktemp -d); mkdir -p "$tree"/{bin,proc,dev,lower,upper,root,modules}
  cp /bin/busybox "$tree/bin/"; for applet in sh mount mkdir insmod switch_root; do ln -s busybox "$tree/bin/$applet"; done
  number=100
  for module in virtio_pci virtiofs overlay; do modprobe -d "$root" -S "$version" --show-depends $module; done |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
      case $file in *.xz) xz -dc "$file" ;; *.zst) zstd -qdc "$file" ;; *) cat "$file" ;; esac > "$tree/modules/$number.ko"; number=$((number + 1)); done
  cat > "$tree/init" <<'I'
#!/bin/sh
mount -t proc proc /proc; mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
mount -t virtiofs -o ro root /lower && mount -t tmpfs -o size=80% memory /upper && mkdir /upper/u /upper/w &&
  mount -t overlay overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w /root &&
  mkdir -p /root/vmshare && mount -t virtiofs share /root/vmshare && exec switch_root /root /bin/bash /vmshare/start
echo "init: no root"
I
  chmod +x "$tree/init"; (cd "$tree"; find . | cpio -o -H newc --quiet | gzip -1) > "$initrd.part"; mv "$initrd.part" "$initrd"; rm -rf "$tree"
fi

release=bookworm; [ "$kernel" = 6.1 ] || release=trixie
below=/
if [ -n "${VM_SYSTEMD:-}" ]; then
  more=${VM_PACKAGES:-}
  below=$home/systemd-$release${more:+-${more//,/-}}
  if [ ! -e "$below/ready" ]; then
    rm -rf "$below"
    mmdebstrap --quiet --mode=root --variant=minbase \
      --include=systemd-sysv,dbus,kmod,iproute2,curl,jq,procps,docker-registry,ca-certificates${more:+,$more} "$release" "$below"
    # What packages start by themselves is not what is tried.
    find "$below/etc/systemd/system" -path '*.wants/*' \( -name 'docker-registry*' -o -name 'podman*' -o -name 'containerd*' \) -delete
    mkdir -p "$below/vmshare" "$below/lib/modules"; cp -a "$root/lib/modules/$version" "$below/lib/modules/"; touch "$below/ready"
  fi
fi

rm -f "$share/status"
if [ -n "${VM_SYSTEMD:-}" ]; then
cat > "$share/start" <<S
cat > /etc/systemd/system/vm.service <<U
[Unit]
After=basic.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
Environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME=/root TERM=dumb
ExecStart=/bin/bash -c '$(printf '%q ' "$@"); echo \\\$\\\$? > /vmshare/status; sync; echo o > /proc/sysrq-trigger; sleep 60'
U
mkdir -p /etc/systemd/system/multi-user.target.wants; ln -sf ../vm.service /etc/systemd/system/multi-user.target.wants/vm.service
systemctl mask --quiet systemd-firstboot.service getty.target serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer || true
ln -sf /usr/lib/systemd/system/multi-user.target /etc/systemd/system/default.target
echo vm > /etc/hostname; : > /etc/fstab
exec /lib/systemd/systemd
S
else
cat > "$share/start" <<S
mount -t sysfs sysfs /sys; mountpoint -q /proc || mount -t proc proc /proc; mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts -o ptmxmode=666 devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mount -t securityfs securityfs /sys/kernel/security; mount -t selinuxfs selinuxfs /sys/fs/selinux 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount --make-rshared /
for c in cpuset cpu io memory pids; do echo +\$c > /sys/fs/cgroup/cgroup.subtree_control; done
mkdir -p /lib/modules/$version; mount --bind $(readlink -f "$root/lib/modules/$version" || true) /lib/modules/$version
# Upper folders of containers cannot stand on an overlay: the tests' own folders are memory.
mkdir -p $BERTH_TEST_DIR/run; mount -t tmpfs -o size=70% run $BERTH_TEST_DIR/run
for m in bridge veth nf_tables nft_chain_nat nft_masq nft_nat nft_ct nft_fib_ipv4 nft_fib_inet br_netfilter erofs loop; do modprobe -q \$m; done
ip link set lo up; hostname vm; export PATH=$(printf %q "$PATH") HOME=/root TERM=dumb $(env | sed -n 's/^\(BERTH_[A-Z_]*\|CARGO_[A-Z_]*\|RUST[A-Z_]*\)=\(.*\)/\1="\2"/p' | tr '\n' ' ')
cd $(printf %q "$PWD")
setsid -w $(printf '%q ' "$@") </dev/null >/dev/ttyS1 2>&1
echo \$? > /vmshare/status; sync; echo o > /proc/sysrq-trigger; sleep 60
S
fi

work=$(mktemp -d); servers=()
trap '[ ${#servers[@]} = 0 ] || kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
serve() { # TAG FOLDER
  /usr/lib/qemu/virtiofsd --socket-path="$work/$1" -o source="$2",cache=always,sandbox=chroot,xattr --thread-pool-size=0 >"$work/$1.log" 2>&1 &
  servers+=($!)
}
serve root "$below"; serve share "$share"
for _ in $(seq 200); do [ -S "$work/root" ] && [ -S "$work/share" ] && break; sleep .02; done
# cx16=off: emulated cmpxchg16b of Debian 12's qemu makes kernel 6.12 panic. KVM only when asked for: nested ones often hang.
model=max,cx16=off accel=tcg,thread=multi
[ -z "${VM_KVM:-}" ] || model=host,arch-capabilities=off accel=kvm
# norandmaps: the emulation keeps what it has translated by address. With addresses of its own for each process all programs would be
# translated again at each start, which is three quarters of the time that these tests take.
timeout "$seconds" qemu-system-x86_64 -accel $accel -machine q35 -cpu $model -smp "$cpus" -m "$memory" \
  -nodefaults -display none -no-reboot -object memory-backend-memfd,id=mem,size="${memory}M",share=on -numa node,memdev=mem \
  -chardev socket,id=c0,path="$work/root" -device vhost-user-fs-pci,chardev=c0,tag=root \
  -chardev socket,id=c1,path="$work/share" -device vhost-user-fs-pci,chardev=c1,tag=share \
  -serial "file:$work/console" -serial stdio -kernel "$(ls "$root"/boot/vmlinuz-* | tail -1)" -initrd "$initrd" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off norandmaps cgroup_no_v1=all ${VM_APPEND:-}" </dev/null 2>"$work/qemu" | stdbuf -o0 tr -d '\r' || true
if [ ! -e "$share/status" ]; then
  { echo "vm.sh: the VM ended (or was ended after $seconds s) without a status; its console:"; tail -20 "$work/console"; cat "$work/qemu" "$work/root.log"; } >&2
  exit 124
fi
exit "$(cat "$share/status")"
