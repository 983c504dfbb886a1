# Sourced by `test`: a minimal Debian 12 in $root, which runs in the network namespace $gateway under a systemd of its
# own where this machine can boot it, and the same few commands where it cannot.

# The mirror of Debian that this machine already uses.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Label: Debian' 'Component: main' | sort -u | head -n 1
}

# What the package depends on is downloaded while there is a network, and installed where there is none.
make_root() { # PACKAGE
	mirror=$(mirror)
	[ -n "$mirror" ] || { apt-get update >>"$log" 2>&1 && mirror=$(mirror); } || true
	[ -n "$mirror" ] || skip "no mirror of Debian among this machine's apt sources"
	debootstrap --variant=minbase --include=systemd-sysv,dbus bookworm "$root" "$mirror" >>"$log" 2>&1 ||
		skip "debootstrap fails: $(tail -n 1 "$log")"
	install -m 644 "$1" "$root/root/xdpfrag.deb"
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	chroot "$root" apt-get install -q -y --download-only /root/xdpfrag.deb >>"$log" 2>&1 ||
		fail "apt does not find what the package depends on: $(tail -n 3 "$log")"
}

# Sets $booted. A server may write its network's settings and calls bpf(2) and landlock: so may this one.
boot() {
	booted=
	if [ -z "${XDPFRAG_NO_BOOT-}" ]; then
		# Without a systemd out here there is nobody to make a scope for it.
		SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --register=no \
			$([ -d /run/systemd/system ] || echo --keep-unit) --directory="$root" --machine=newcomer \
			--network-namespace-path="/run/netns/$gateway" --link-journal=no --console=pipe --boot --capability=all \
			--system-call-filter='bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
			</dev/null >"$work/console" 2>&1 &
		nspawn=$!
		for _ in $(seq 120); do
			kill -0 $nspawn 2>/dev/null || break
			leader=$(cut -d " " -f 1 "/proc/$nspawn/task/$nspawn/children") || true
			case $(nsenter --target "${leader:-0}" --all systemctl is-system-running 2>/dev/null) in
			running | degraded)
				booted=yes
				return
				;;
			esac
			sleep 0.5
		done
		why="systemd-nspawn does not come up: $(tail -n 3 "$work/console")"
		shut_down
	fi
	echo
	echo "!!! NOT BOOTED: ${why-XDPFRAG_NO_BOOT is set}"
	echo "!!! The command lines of the unit run in a chroot instead. Untested: readiness, DynamicUser, the sandbox of"
	echo "!!! the unit, watchdog, systemctl."
	echo
}

shut_down() {
	# systemd-nspawn has it power off.
	[ -z "${nspawn-}" ] || { kill -TERM "$nspawn" 2>/dev/null && wait "$nspawn"; } || true
	[ -z "${daemon-}" ] || { kill -KILL "$daemon" 2>/dev/null && wait "$daemon"; } 2>/dev/null || true
	nspawn= daemon=
}

# Runs a command there as root.
in_root() { (enter "$@"); }

# The same in the place of this shell.
enter() {
	clean='env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive'
	# The words of $clean are meant to be split.
	if [ -n "$booted" ]; then
		exec nsenter --target "$leader" --all -- $clean "$@"
	else
		exec ip netns exec "$gateway" unshare --mount sh -c \
			'mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" && exec chroot "$0" "$@"' "$root" $clean "$@"
	fi
}

unit() { # KEY: the command line that it has
	sed -n "s/^$1=//p" "$root/usr/lib/systemd/system/xdpfrag.service"
}

start_service() {
	if [ -n "$booted" ]; then
		in_root systemctl enable --now xdpfrag
		return
	fi
	: >"$work/service"
	# The words of a command line are meant to be split.
	enter $(unit ExecStart) >>"$work/service" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		! grep -q 'forwarding on' "$work/service" || return 0
		sleep 0.1
	done
	fail "it does not start: $(cat "$work/service")"
}

reload_service() {
	if [ -n "$booted" ]; then in_root systemctl reload xdpfrag; else in_root $(unit ExecReload); fi
}

stop_service() {
	if [ -n "$booted" ]; then
		in_root systemctl stop xdpfrag
		[ "$(show Result) $(show ExecMainStatus)" = 'success 0' ] || fail "it did not end orderly: $(journal)"
	else
		kill -TERM "$daemon"
		wait "$daemon" || fail "it did not end orderly: $(cat "$work/service")"
		daemon=
	fi
}

show() { # PROPERTY of the unit
	in_root systemctl show --property "$1" --value xdpfrag
}

journal() {
	if [ -n "$booted" ]; then in_root journalctl --quiet --no-pager --output=cat -u xdpfrag; else cat "$work/service"; fi
}
