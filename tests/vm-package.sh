# Sourced by what runs inside the VM of vm.sh with VM_SYSTEMD=1, with $from: the package of package.sh on a fresh Debian, its agent not yet started.
image=127.0.0.1:5055/busybox
checks=0 failed=0

check() { # WHAT FOUND WANTED
  checks=$((checks + 1))
  if [ "$2" = "$3" ]; then echo "ok: $1"; else failed=$((failed + 1)); echo "FAILED: $1: '$2' instead of '$3'"; fi
}
field() { berthctl inspect "$1" | jq -r ".[0] | $2"; }
main_pid() { systemctl show -P MainPID berthd; }
answers() { for _ in $(seq 300); do berthctl version >/dev/null 2>&1 && return 0; sleep .2; done; return 1; }

docker-registry serve "$from/registry/config.yml" >/run/registry.log 2>&1 &
for _ in $(seq 100); do curl -sf 127.0.0.1:5055/v2/ >/dev/null && break; sleep .2; done

# Upper folders of containers cannot stand on an overlay, which is this root, and layers for user namespaces not on tmpfs before Linux 6.3. Where there
# are no loop devices (systemd.sh) the kernel is newer.
mkdir -p /var/lib/berth
if modprobe -q loop && [ -e /dev/loop-control ]; then
  truncate -s 2G /data; mkfs.ext4 -q /data && mount -o loop,discard /data /var/lib/berth && rmdir /var/lib/berth/lost+found || exit 1
else
  mount -t tmpfs -o size=70% data /var/lib/berth
fi
dpkg -i "$from/berth.deb" >/run/dpkg.log 2>&1 || { cat /run/dpkg.log; exit 1; }
pki=/root/pki
berthctl pki --dir $pki init --name test >/dev/null
berthctl pki --dir $pki issue agent vm --san 127.0.0.1 >/dev/null
install -m 600 $pki/ca.pem /etc/berth/pki/ca.pem
install -m 600 $pki/agents/vm.pem /etc/berth/pki/agent.pem
install -m 600 $pki/agents/vm.key /etc/berth/pki/agent.key
printf '\n[registries."127.0.0.1:5055"]\nplain_http = true\n' >> /etc/berth/berthd.toml
