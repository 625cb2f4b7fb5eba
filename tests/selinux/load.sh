#!/bin/bash
# load.sh : inside a virtual machine of vm.sh that was started with VM_APPEND="security=selinux selinux=1 enforcing=0": compiles the policy beside this
# file and loads it. Needs checkpolicy.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -e /sys/fs/selinux/load ] || { echo "load.sh: this kernel runs without SELinux" >&2; exit 1; }
work=$(mktemp -d)
categories=$(for n in $(seq 0 1023); do echo "category c$n;"; done)
awk -v all="$categories" '/^@CATEGORIES@$/ { print all; next } { print }' "$here/policy.conf" > "$work/policy.conf"
checkpolicy -M -U allow -c 33 -o "$work/policy" "$work/policy.conf" >/dev/null
# The kernel takes a policy in one write.
dd if="$work/policy" of=/sys/fs/selinux/load bs=16M status=none
rm -rf "$work"
