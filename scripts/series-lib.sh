# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# What the checks of the series on Linux share: the patches, and a line of TAP
# for each result. Source it after lib.sh.

SERIES=$TOP/patches/linux-6.18
WORK=$BUILD/check-series
LOG=$BUILD/log/check-series
mkdir -p "$WORK" "$LOG"

mapfile -t patches < <(sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$SERIES/series")
for name in "${patches[@]}"; do
	[ -f "$SERIES/$name" ] || die "series names $name, which is not there"
done

# files_of PATCH...: what they create, change or delete, without a/ and b/.
files_of() { sed -n -E 's,^(---|\+\+\+) [ab]/([^	]*).*,\2,p' "$@" | sort -u; }
mapfile -t touched < <(cd "$SERIES" && files_of "${patches[@]}")

# apply_one DIR PATCH LOG
apply_one() { patch -s -p1 -d "$1" --fuzz=0 --no-backup-if-mismatch -f <"$SERIES/$2" >"$3" 2>&1; }

n=0 failed=0
# result STATUS NAME [LOG]: if it failed, with the end of the log.
result() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n $2"
		return
	fi
	[ ! -f "${3:-}" ] || tail -n 15 "$3" | sed 's/^/# /'
	echo "not ok $n $2"
	failed=$((failed + 1))
}

# end WHAT-FAILED: the plan, and out.
end() {
	echo "1..$n"
	[ "$failed" = 0 ] || die "$1, $failed of $n; logs are in $LOG"
}
