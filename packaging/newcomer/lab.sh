# Sourced by `test`: appliance, gateway and far host, each a network namespace with addresses of RFC 2544. The link
# between gateway and far host has the MTU of an SA, as an XFRM interface would have.

make_lab() {
	for namespace in "$appliance" "$gateway" "$far"; do
		ip netns add "$namespace"
		ip -n "$namespace" link set lo up
	done
	cable "$appliance" lan0 198.18.1.2/24 eth1 198.18.1.1/24 1500
	cable "$far" far0 198.18.2.2/24 wan0 198.18.2.1/24 1422
	ip -n "$appliance" route add default via 198.18.1.1
	ip -n "$far" route add default via 198.18.2.1
	ip netns exec "$gateway" sysctl -qw net.ipv4.ip_forward=1
}

cable() { # NAMESPACE INTERFACE ADDRESS, INTERFACE ADDRESS of the gateway, MTU
	ip -n "$1" link add "$2" mtu "$6" type veth peer name "$4" mtu "$6" netns "$gateway"
	ip -n "$1" address add "$3" dev "$2"
	ip -n "$gateway" address add "$5" dev "$4"
	ip -n "$1" link set "$2" up
	ip -n "$gateway" link set "$4" up
	# Whole frames with finished checksums, as they come from a wire.
	ip netns exec "$1" ethtool -K "$2" tx off tso off gso off >/dev/null
}

remove_lab() {
	[ -z "${sender-}" ] || { kill "$sender" && wait "$sender"; } 2>/dev/null || true
	for namespace in "$appliance" "$gateway" "$far"; do
		ip netns delete "$namespace" 2>/dev/null || true
	done
}

# Datagrams of 1500 bytes with DF from an appliance that is deaf to ICMP; says "ARRIVED of COUNT".
send() { # COUNT RATE
	"$datagrams" "/run/netns/$appliance" "/run/netns/$far" 198.18.2.2:7001 "$1" 1472 "$2"
}

# The same beside what comes next, until `sent`, which says it.
send_meanwhile() { # COUNT RATE
	"$datagrams" "/run/netns/$appliance" "/run/netns/$far" 198.18.2.2:7001 "$1" 1472 "$2" >"$work/sent" &
	sender=$!
}

sent() {
	wait $sender
	sender=
	cat "$work/sent"
}

arrives() { # COUNT, EXPECTED, what is the case
	got=$(send "$1" 2000)
	[ "$got" = "$2 of $1" ] || fail "$3: $got arrived"
	echo "    $3: $got datagrams of 1500 bytes with DF arrived"
}
