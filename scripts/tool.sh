#!/bin/sh
# scripts/tool.sh NAME [ARG...] runs a development tool at the version that scripts/tools pins.
#
# A tool is built once into .cache/bin, under a checksum of the pins and of the Go version (golangci-lint refuses code
# that is newer than the Go it was built with), so later runs start at once. Works from any folder, so go:generate may
# call it too: //go:generate ../scripts/tool.sh oapi-codegen -config oapi.yaml ../openapi.yaml
# gitleaks has a go.mod of its own: beside golangci-lint it would get versions that it does not compile with.
set -eu

name=$1
shift
pkg=
root=$(cd "$(dirname "$0")/.." && pwd)
for mod in "$root"/scripts/tools "$root"/scripts/tools/*/; do
	[ -f "$mod/go.mod" ] || continue
	pkg=$(sed -n '/^tool (/,/^)/s/^\t//p; s/^tool //p' "$mod/go.mod" | grep -E "(^|/)$name(/v[0-9]+)?\$") && break
done
if [ -z "$pkg" ]; then
	echo "tool.sh: no go.mod in scripts/tools has a tool $name" >&2
	exit 1
fi
key=$({ go env GOVERSION; cat "$mod/go.mod" "$mod/go.sum"; } | cksum | cut -d' ' -f1)
bin=$root/.cache/bin/$key/$name

if [ ! -x "$bin" ]; then
	echo "building $name (once)" >&2
	# Built beside its place and moved there: an interrupted build, or a second one, leaves no half file.
	CGO_ENABLED=0 go build -C "$mod" -o "$bin.$$" "$pkg"
	mv "$bin.$$" "$bin"
fi
exec "$bin" "$@"
