#!/bin/bash
# dns.sh [RATE...] : the DNS server alone, on a bridge of a namespace of its own with 200 names: answers and times at RATE questions a second
# (default 1000 10000) from one container, and from one while another floods; what it takes of memory and processor. Needs root.
set -eu
cd "$(dirname "$0")/../.."
RUSTFLAGS="-Ctarget-feature=+crt-static -Crelocation-model=static" cargo build --quiet --package berth-names --bin berth-names --profile shim --target "$(rustc -vV | sed -n 's/host: //p')"
program=$(pwd)/target/$(rustc -vV | sed -n 's/host: //p')/shim/berth-names
dir=$(mktemp -d /var/tmp/berth-dns.XXXXXX); chmod 755 "$dir"
host=berthdns${$}h; one=berthdns${$}a; two=berthdns${$}b
server=
trap '[ -z "$server" ] || kill $server 2>/dev/null; for n in $host $one $two; do ip netns delete $n 2>/dev/null; done; rm -rf "$dir"' EXIT
cc -O2 -o "$dir/dns" tests/bench/dns.c
for n in $host $one $two; do ip netns add "$n"; ip -n "$n" link set lo up; done
ip -n $host link add br0 type bridge; ip -n $host address add 10.77.0.1/24 dev br0; ip -n $host link set br0 up
i=2
for n in $one $two; do
  ip -n $host link add v$i type veth peer name eth0 netns $n; ip -n $host link set v$i master br0 up
  ip -n $n address add 10.77.0.$i/24 dev eth0; ip -n $n link set eth0 up; i=$((i + 1))
done
{ printf 'berth-names 1\nnetwork web\ndevice br0\nlisten 10.77.0.1\nsubnet 10.77.0.0/24\n'
  for i in $(seq 2 201); do echo "host id$i web$i 10.77.0.$i"; done; } >"$dir/web.zone"
ip netns exec $host python3 -c "import socket,os,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.bind('$dir/sock'); s.listen(); os.dup2(s.fileno(),0)
os.execv('$program',['berth-names','$dir','bench'])" & server=$!
until [ -s "$dir/pid" ]; do sleep 0.05; done
sleep 0.3
used() { echo "  $1: $(sed -n 's/^Pss: *//p' /proc/$server/smaps_rollup), processor $(($(cut -d' ' -f14 /proc/$server/stat) + $(cut -d' ' -f15 /proc/$server/stat)))0 ms"; }
used "at rest"
for rate in ${*:-1000 10000}; do ip netns exec $one "$dir/dns" 10.77.0.1 web3 "$rate" 5; used "behind 5 s of $rate/s"; done
ip netns exec $two "$dir/dns" 10.77.0.1 web2 200000 6 >"$dir/flood" & flood=$!
sleep 1
ip netns exec $one "$dir/dns" 10.77.0.1 web3 1000 4
wait $flood; echo "  beside a flood: $(cat "$dir/flood")"; used "behind the flood"
