#!/bin/sh
# Prints the commits of main whose readers a change of proto/ must not break, newest first: the last ten that changed it.
# Nothing, outside of git. Run it in pkg/contract.
#
# main is what others have, origin/main, if it is known; a checkout that knows no main stands for it itself. A change of
# several commits may hide a break under an innocent one, which is why the last commit alone is not enough. A shallow checkout
# is completed first. What cannot be found out is an error: a check is never silently left out.
#
#   CONTRACT_BASE=<revision>   that one instead
set -eu

fail() { echo "contract: $*" >&2; exit 1; }
commit() { git rev-parse -q --verify "$1^{commit}"; }

git rev-parse --git-dir >/dev/null 2>&1 || exit 0
if [ -n "${CONTRACT_BASE:-}" ]; then
	commit "$CONTRACT_BASE" || fail "CONTRACT_BASE=$CONTRACT_BASE is no commit of this checkout"
	exit
fi
if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
	git fetch -q --unshallow ||
		fail 'a shallow checkout does not tell what main had: fetch its history (git fetch --unshallow), or set CONTRACT_BASE'
fi
head=$(commit HEAD) || exit 0 # nothing is committed yet
main=$(commit refs/remotes/origin/main || commit refs/heads/main || echo "$head")
left=$(git merge-base "$head" "$main") ||
	fail 'this branch and main have nothing in common: set CONTRACT_BASE to the commit to compare with'
git rev-list -10 "$left" -- proto
