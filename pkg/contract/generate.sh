#!/bin/sh
# Generates the Go code of the events from proto/, or checks that it is what proto/ says.
#
#   generate.sh          format the .proto files and write the Go code
#   generate.sh check    change nothing; fail on format, lint, drift, or a change that breaks readers of
#                        the events of main, by versions.sh
set -eu
export GOWORK=off

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
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
	versions=$(./versions.sh) || exit 1
	[ -n "$versions" ] || echo 'contract: there is no history here to compare with, breaking changes not checked' >&2
	for version in $versions; do
		mkdir "$tmp/$version"
		git archive "$version" . | tar -x -C "$tmp/$version"
		"$buf" breaking --against "$tmp/$version" ||
			fail "breaks readers of the events of $version: declare a new event or add fields instead"
	done
	;;
*)
	fail 'usage: generate.sh [check]'
	;;
esac
