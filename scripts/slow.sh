#!/usr/bin/env bash
# 4,000 slow connections (slowhttptest, Debian) against a running server, and how a well-behaved client fares meanwhile.
# scripts/slow.sh URL [CONNECTIONS [OTHER]]: prints its p50 and p99 before and during, in ms. Bounded: half a minute. With the URL of
# another server on the machine, that one is attacked first: so much is the machine's and the attacker's program's, not the server's.
# SLOW=-H (the default) sends slow headers, -B slow bodies, which are refused at once for want of a credential.
set -euo pipefail
url=${1:?URL} connections=${2:-4000} other=${3:-}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ulimit -n "$(ulimit -Hn)"
probe() { # 3,000 fresh connections, one after another, by one process: starting one for each would be most of the load
	curl -s -m 60 -H 'Connection: close' -o /dev/null -w '%{time_total} %{http_code}\n' "$url/openapi.yaml#[1-3000]" |
		awk '$2 != 200 { bad++ } { print $1 * 1000 }  END { print "failed", bad + 0 > "/dev/stderr" }' | sort -n |
		awk '{ a[NR] = $1 } END { printf "p50 %.2f p99 %.2f\n", a[int(NR * .5)], a[int(NR * .99)] }'
}
open() { # URL
	ss -Htn state established "( sport = :${1##*:} )" | wc -l
}
during() { # URL that is attacked
	slowhttptest "${SLOW:--H}" -c "$connections" -r 2000 -i 3 -l 25 -s 100000 -u "$1/v1/tokenize" -p 10 >"$log" 2>&1 &
	sleep 3.5 # all are open; each is closed after its 5 s
	echo "$(open "$1") open, $(probe), $(open "$1") open after it"
	wait $! || true
}
echo "alone:           $(probe)"
[ -z "$other" ] || echo "other attacked:  $(during "$other")"
echo "during:          $(during "$url")"
