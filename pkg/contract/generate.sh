#!/bin/sh
# Generates the Go code of the events from proto/, or checks that it is what proto/ says.
#
#   generate.sh          format the .proto files and write the Go code
#   generate.sh check    change nothing; fail on format, lint, drift, or a change that breaks readers of
#                        the events on main (or on the git revision in CONTRACT_BASE)
set -eu
export GOWORK=off

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# On main itself the last commit is what is being checked: its readers are those of the one before.
base=${CONTRACT_BASE:-main}
if [ -z "${CONTRACT_BASE:-}" ] && [ "$(git rev-parse -q --verify main)" = "$(git rev-parse -q --verify HEAD)" ]; then
	if git diff --quiet HEAD -- "$(dirname -- "$0")/proto" 2>/dev/null; then base=HEAD~1; fi
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

tool() { go tool -C "$root/tools/$1" -n "$1"; }
fail() { echo "contract: $*" >&2; exit 1; }
generate() { "$buf" generate -o "$tmp/generated"; }

buf=$(tool buf)
plugin=$(tool protoc-gen-go)
PATH=$(dirname -- "$plugin"):$PATH
cd "$here"

case ${1:-generate} in
generate)
	"$buf" format -w
	generate
	rm -rf ./*v1
	cp -R "$tmp/generated/." .
	;;
check)
	"$buf" format -d --exit-code || fail 'not formatted: run pkg/contract/generate.sh'
	"$buf" lint || fail 'lint found the above: correct it, then run pkg/contract/generate.sh'
	generate
	mkdir "$tmp/committed"
	cp -R ./*v1 "$tmp/committed" || fail 'no generated code: run pkg/contract/generate.sh'
	diff -r "$tmp/committed" "$tmp/generated" || fail 'generated code differs from proto/: run pkg/contract/generate.sh'
	if git cat-file -e "$base:./buf.yaml" 2>/dev/null; then
		mkdir "$tmp/base"
		git archive "$base" . | tar -x -C "$tmp/base"
		"$buf" breaking --against "$tmp/base" ||
			fail "breaks readers of the events on $base: declare a new event or add fields instead"
	else
		echo "contract: nothing on $base to compare with, breaking changes not checked"
	fi
	;;
*)
	fail 'usage: generate.sh [check]'
	;;
esac
