#!/bin/bash
# deb.sh [FOLDER] : makes berth_VERSION_ARCH.deb of the release build, in target/debian or FOLDER.
#
# dpkg-deb is all that it needs; with dpkg-dev installed the libraries' versions are worked out, too. The same commit gives the same bytes.
# BERTH_BIN: another folder with berthd, berthctl and berth-runtime.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
target=${CARGO_TARGET_DIR:-target}
out=${1:-$target/debian}
bin=${BERTH_BIN:-$target/release}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(dpkg --print-architecture)
for binary in berthd berthctl berth-runtime; do
  [ -x "$bin/$binary" ] || { echo "error: $bin/$binary is not there" >&2; echo "hint: make build" >&2; exit 1; }
done
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)
export SOURCE_DATE_EPOCH
umask 022
chmod 755 "$root"
pkg=$root/pkg

install -D -m 755 -t "$pkg/usr/bin" "$bin/berthd" "$bin/berthctl" "$bin/berth-runtime"
install -D -m 644 -t "$pkg/usr/lib/systemd/system" deploy/berthd.service
install -D -m 644 -t "$pkg/etc/berth" deploy/berthd.toml
install -D -m 644 -t "$pkg/etc/apparmor.d" deploy/apparmor/berth-default
install -D -m 644 -t "$pkg/usr/share/doc/berth" README.md ARCHITECTURE.md THREATS.md
install -D -m 644 LICENSE "$pkg/usr/share/doc/berth/copyright"
install -D -m 644 -t "$pkg/usr/share/man/man8" deploy/berthd.8

# The ctl writes its own pages and completions.
ctl=$bin/berthctl
install -d "$pkg/usr/share/man/man1"
"$ctl" man "$pkg/usr/share/man/man1"
for shell in bash zsh fish; do
  case $shell in
  bash) file=usr/share/bash-completion/completions/berthctl ;;
  zsh) file=usr/share/zsh/vendor-completions/_berthctl ;;
  fish) file=usr/share/fish/vendor_completions.d/berthctl.fish ;;
  esac
  install -d "$pkg/${file%/*}"
  "$ctl" completion "$shell" >"$pkg/$file"
done
find "$pkg/usr/share/man" -type f -exec gzip -9n {} +

depends="libc6, libgcc-s1"
if command -v dpkg-shlibdeps >/dev/null; then
  mkdir -p "$root/work/debian"
  printf 'Source: berth\n\nPackage: berth\nArchitecture: any\n' >"$root/work/debian/control"
  bins=$(realpath "$bin/berthd" "$bin/berthctl" "$bin/berth-runtime")
  # shellcheck disable=SC2086
  depends=$(cd "$root/work" && dpkg-shlibdeps -O $bins 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
fi

install -d "$pkg/DEBIAN"
install -m 755 -t "$pkg/DEBIAN" deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm
install -m 644 -t "$pkg/DEBIAN" deploy/debian/conffiles
cat >"$pkg/DEBIAN/control" <<CONTROL
Package: berth
Version: $version
Architecture: $arch
Maintainer: The berth authors <berth@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$pkg" | cut -f1)
Depends: ${depends:-libc6}
Recommends: ca-certificates
Section: admin
Priority: optional
Description: container agent and its command line
 berthd turns a Linux host into a container node that is driven from far away:
 it pulls OCI images and runs them in namespaces and cgroups, for callers over
 mutual TLS. berthctl drives one host or a thousand of them. berth-runtime is
 its runtime as an OCI command line, for Podman and containerd.
 .
 Needs a kernel with overlayfs, user namespaces, nf_tables and cgroups (v2 or v1).
CONTROL
(cd "$pkg" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$pkg/DEBIAN/md5sums"
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$pkg" "$out/berth_${version}_$arch.deb"
