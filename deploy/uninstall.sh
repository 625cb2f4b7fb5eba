#!/bin/sh
# uninstall.sh [--keep-images] : takes berth off this host when it was not installed as a Debian package.
#
# Ends every container and removes all that berth has made: cgroups, bridge, nftables table, /run/berth, /var/lib/berth, /etc/berth, the
# unit and the binaries; with /var/lib/berth go images and volumes with their files. --keep-images leaves /var/lib/berth and /etc/berth.
set -eu
keep=
case ${1:-} in
--keep-images) keep=1 ;;
"") ;;
*) sed -n 2p "$0" | cut -c3- >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { echo "error: this takes root" >&2; exit 1; }
prefix=${PREFIX:-/usr/local}
berthd=$(command -v berthd || echo "$prefix/bin/berthd")

if [ -d /run/systemd/system ] && systemctl cat berthd.service >/dev/null 2>&1; then
  systemctl disable --now berthd.service
fi
if [ -x "$berthd" ]; then
  if [ -n "$keep" ]; then "$berthd" uninstall --yes; else "$berthd" uninstall --yes --purge; fi
else
  echo "warning: $berthd is not there: containers that still run are left alone" >&2
fi
rm -f "$prefix/bin/berthd" "$prefix/bin/berthctl" "$prefix/bin/berth-runtime" /etc/systemd/system/berthd.service
# What `berthctl agent upgrade` has put beside the program.
rm -f "$prefix/bin/berthd.previous" "$prefix/bin/.berthd.new" "$prefix/bin/.berthd.previous.new"
rm -f "$prefix"/share/man/man8/berthd.8 "$prefix"/share/man/man1/berthctl*.1
rm -f "$prefix/share/bash-completion/completions/berthctl" "$prefix/share/zsh/site-functions/_berthctl" \
  "$prefix/share/fish/vendor_completions.d/berthctl.fish"
[ -n "$keep" ] || rm -rf /etc/berth
[ ! -d /run/systemd/system ] || systemctl daemon-reload
echo "berth is uninstalled"
