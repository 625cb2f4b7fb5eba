#!/bin/sh
# A CNI plugin for tests. It writes down how it is called, and does what the file `on-VERB` beside it says.
here=$(dirname "$0")
conf=$(cat)
echo "$CNI_COMMAND ${CNI_IFNAME:-}" >> "$here/calls"
# Whole, for those who wait for it.
printf '%s' "$conf" > "$here/last-$CNI_COMMAND.new" && mv "$here/last-$CNI_COMMAND.new" "$here/last-$CNI_COMMAND"
env > "$here/env-$CNI_COMMAND"
if [ -e "$here/on-$CNI_COMMAND" ]; then . "$here/on-$CNI_COMMAND"; fi
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
ADD) printf '%s' "$conf" | jq -c '.prevResult // {cniVersion, ips: [{address: "10.9.9.9/24"}]}' ;;
esac
