#!/bin/sh
# The tests run against real peers: OpenSSH on both ends, MariaDB, rsync, curl,
# rsyslog, the clients of Dropbear and PuTTY, and systemd-analyze, which judges the
# unit files.
# This script makes sure that they are here. As root on a Debian it installs
# what is missing; elsewhere it fails with the line to type.
#
#	e2e/peers.sh             check, and install if possible
#	e2e/peers.sh --openssh   the same, of OpenSSH alone
#	e2e/peers.sh --check     only check
set -eu

PATH="$PATH:/usr/sbin:/sbin"

packages="openssh-server openssh-client mariadb-server mariadb-client rsync netcat-openbsd iproute2 util-linux e2fsprogs curl gcc libc6-dev rsyslog rsyslog-openssl systemd dropbear-bin putty-tools"
programs="ssh scp sftp ssh-keygen ssh-agent ssh-add sshd mariadbd mariadb mariadb-install-db rsync nc ip nsenter mkfs.ext4 curl gcc rsyslogd systemd-analyze dbclient dropbearconvert plink puttygen"
all=yes
if [ "${1:-}" = "--openssh" ]; then
	packages="openssh-server openssh-client"
	programs="ssh sshd"
	all=no
fi

missing() {
	for program in $programs; do
		command -v "$program" >/dev/null 2>&1 || printf ' %s' "$program"
	done
	[ "$all" = yes ] || return 0
	[ -x /usr/lib/openssh/sftp-server ] || [ -x /usr/libexec/openssh/sftp-server ] ||
		[ -x /usr/libexec/sftp-server ] || [ -x /usr/lib/ssh/sftp-server ] || printf ' sftp-server'
	# The module has a folder that differs by machine.
	find /usr/lib /usr/lib64 -name lmnsd_ossl.so 2>/dev/null | grep -q . || printf ' rsyslog-openssl'
	# The traditional and the GNU nc have no -N, which half-closes at the end of the input.
	if command -v nc >/dev/null 2>&1 && ! nc -h 2>&1 | grep -q -- '-N'; then
		printf ' netcat-openbsd'
	fi
	# gcc without the C library's headers cannot build with -race.
	[ ! -d /usr/include ] || [ -e /usr/include/stdlib.h ] || printf ' libc6-dev'
}

lacking=$(missing)
if [ -z "$lacking" ]; then
	exit 0
fi

if [ "${1:-}" != "--check" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "peers: installing what is missing:$lacking" >&2
	# RUNLEVEL=1 keeps the packages from starting services of their own.
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -q --no-install-recommends $packages >&2 ||
		{ apt-get update -q >&2 && apt-get install -y -q --no-install-recommends $packages >&2; }
	lacking=$(missing)
	[ -n "$lacking" ] || exit 0
fi

echo "peers: missing:$lacking. Type this:" >&2
echo "sudo env RUNLEVEL=1 apt-get install -y --no-install-recommends $packages" >&2
exit 1
