#!/bin/sh
# scripts/unchanged.sh COMMAND [ARG...] runs a command that writes generated files and fails if that changed any file.
# It compares with the work tree, not with the last commit: work in progress may be checked, and what was stale is
# up to date afterwards.
set -eu
cd "$(dirname "$0")/.."

state() {
	git diff HEAD
	git ls-files --others --exclude-standard -z | xargs -0 -r cksum
}

before=$(state | cksum)
"$@"
if [ "$before" != "$(state | cksum)" ]; then
	git status --short >&2
	echo "unchanged.sh: generated files were stale: '$*' has just renewed them; commit the result" >&2
	exit 1
fi
