#!/bin/sh
# Tests against RabbitMQ 4.3, which compose runs, on a machine whose own packages have an older one.   ./task test:broker43
#
#   test.sh            the transport's tests, those of pkg/rabbit, and the journey of an order that goes well
#   test.sh COMMAND    a command of yours instead, such as: test.sh go test -count=1 ./ops/journey
#
# RabbitMQ 4.3 and its Erlang come from Debian's unstable packages and need a newer C library than this machine may have,
# so they are unpacked into a folder and run in it (chroot). Everything else is this machine's: a command started here
# finds RabbitMQ 4.3 where it otherwise finds the installed one, and starts it, on free ports, as it always does.
#
# Needs root; gets debootstrap and the machine's own servers if they are missing, and changes nothing else of the machine:
# all mounts are in a namespace of their own, and end with it.
#
#   XDG_CACHE_HOME    where the folder is kept, 310 MB of it in hotchoc/broker43; ~/.cache. Delete it to get newer packages
#   DEBIAN_MIRROR     http://deb.debian.org/debian; unstable moves on: snapshot.debian.org has each of its days
set -eu

want=4.3
checkout=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hotchoc/broker43
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
system=/usr/lib/rabbitmq # where the servers of ./task test look for RabbitMQ
root=/mnt                # where the folder is seen: ~ may be closed to the account that RabbitMQ runs as

say() { echo "broker43: $*" >&2; }
fail() { say "$@"; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root, for a chroot"
if ! command -v debootstrap >/dev/null || ! [ -d $system ]; then
	"$checkout/bin/hotchoc" servers -- true >/dev/null # installs those that are missing
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap >/dev/null
fi
[ -n "${BROKER43_ALONE:-}" ] || exec env BROKER43_ALONE=yes unshare --mount -- "$0" "$@"

# install unpacks the packages. What was not finished is begun again.
install() {
	say "getting RabbitMQ $want from $mirror, this once: 80 MB, about a minute; the output is in $cache/install.log"
	rm -rf --one-file-system "$cache/new"
	: >"$cache/install.log"
	step "Debian, as small as it gets" debootstrap --variant=minbase sid "$cache/new" "$mirror"
	printf '#!/bin/sh\nexit 101\n' >"$cache/new/usr/sbin/policy-rc.d" # installing starts nothing
	chmod +x "$cache/new/usr/sbin/policy-rc.d"
	step "RabbitMQ and Erlang" env DEBIAN_FRONTEND=noninteractive \
		chroot "$cache/new" apt-get install -y --no-install-recommends rabbitmq-server
	chroot "$cache/new" apt-get clean
	mv "$cache/new" "$cache/root"
}

step() {
	say "  $1"
	shift
	"$@" >>"$cache/install.log" 2>&1 || fail "that did not work; the end of $cache/install.log:
$(tail -n 15 "$cache/install.log")"
}

# disguise puts a RabbitMQ where the machine's is: a start script, which goes into the chroot and is the server's there.
disguise() {
	mount --bind "$cache/root" $root
	# The server finds its files under the same names within.
	mkdir -p "$root$checkout"
	for shared in /proc /dev /tmp "$checkout"; do mount --rbind "$shared" "$root$shared"; done
	# Without its name here, RabbitMQ 4 asks the network for it with every connection.
	echo "127.0.0.1 localhost $(hostname)" >$root/etc/hosts

	rm -rf "$cache/system"
	mkdir -p "$cache/system/bin" "$cache/system/lib/rabbitmq_server-$version/sbin"
	start=lib/rabbitmq_server-$version/sbin/rabbitmq-server
	# A user namespace, since the account that RabbitMQ runs as may not change its root otherwise.
	printf '#!/bin/sh\nexec unshare --map-current-user --root=%s %s/bin/rabbitmq-server "$@"\n' $root $system >"$cache/system/$start"
	chmod +x "$cache/system/$start"
	ln -s "../$start" "$cache/system/bin/rabbitmq-server"
	mount --bind "$cache/system" $system
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two at once would install the same
[ -d "$cache/root" ] || install
version=$(chroot "$cache/root" dpkg-query -W -f '${Version}' rabbitmq-server)
version=${version%-*}
case $version in
$want.*) say "RabbitMQ $version, in $cache/root" ;;
4.*) say "Debian's unstable has RabbitMQ $version by now, which is tried instead; for $want, delete $cache and set DEBIAN_MIRROR to a day that had it" ;;
*) fail "RabbitMQ $version, not $want: delete $cache and set DEBIAN_MIRROR to a day that had it" ;;
esac
disguise
exec 9>&-

cd "$checkout"
if [ $# -gt 0 ]; then
	exec "$@"
fi
say "the transport's tests, and those of pkg/rabbit"
bin/hotchoc servers -- go test -race -count=1 ./pkg/flow/sim/broker/... ./pkg/rabbit/...
say "an order's journey"
go test -count=1 -run '^TestAnOrderIsPaidMadeDeliveredAndCompleted$' ./ops/journey
