/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which packets are one flow. Included behind `cfg` and parse.h.
 *
 * Whole packets are told apart by port. Fragments carry no ports: they belong to
 * their two hosts.
 */
#ifndef XDPFRAG_HASH_H
#define XDPFRAG_HASH_H

/* Odd constants of splitmix64. */
static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9;
	return ((hash ^ hash >> 27) + word) * 0x94d049bb133111eb;
}

/*
 * Of addresses, and for IPv4 of the protocol, which IPv6 fragments have behind
 * their headers. src/packet/ident.rs does the same for IPv4.
 */
static __always_inline __u64 hash_of_pair(const struct xf_packet *packet)
{
	__u64 hash = cfg.flow_seed;

	if (packet->v6) {
		const struct ipv6hdr *ip = packet->ip6;
		const __u32 *source = ip->saddr.s6_addr32, *dest = ip->daddr.s6_addr32;

		hash = mix(hash, (__u64)source[0] << 32 | source[1]);
		hash = mix(hash, (__u64)source[2] << 32 | source[3]);
		hash = mix(hash, (__u64)dest[0] << 32 | dest[1]);
		return mix(hash, (__u64)dest[2] << 32 | dest[3]);
	}

	const struct iphdr *ip = packet->ip;

	return mix(hash ^ ((__u64)ip->saddr << 32 | ip->daddr), ip->protocol);
}

/* The slot of the flow with these ports. A collision makes another flow ride along: harmless. */
static __always_inline __u32 flow_slot(__u64 pair, __u32 ports)
{
	__u64 hash = mix(pair, 1ull << 32 | ports);

	return (hash ^ hash >> 31) & (XF_FLOW_SLOTS - 1);
}

/* A packet's place in the order: slots of its hosts and of its flow, XF_NO_SLOT for none. */
struct xf_order {
	__u32 pair;
	__u32 flow; /* of a whole packet */
};

#define XF_NO_SLOT (~0u)

/*
 * Behind xf_find_tcp(): the ports of a whole packet. Protocols without ports, or
 * with extension headers before them, have none, and are one flow per pair.
 */
static __always_inline __u32 ports_of(void *end, const struct xf_packet *packet, const struct xf_tcp *tcp)
{
	__u8 protocol = packet->v6 ? packet->ip6->nexthdr : packet->ip->protocol;
	__be16 source = tcp->source, dest = tcp->dest;
	__u32 ihl = packet->ihl;
	struct udphdr *udp;

	if (protocol == IPPROTO_UDP) {
		/* Masked anew, as in xf_find_tcp(). */
		barrier_var(ihl);
		udp = (void *)packet->ip + (ihl & 0x3c);
		if ((void *)(udp + 1) <= end) {
			source = udp->source;
			dest = udp->dest;
		}
	}
	return (__u32)source << 16 | dest;
}

/* Of a packet with these ports whose hosts have this hash. */
static __always_inline struct xf_order order_of(const struct xf_packet *packet, __u64 hash, __u32 ports)
{
	struct xf_order order = { .pair = (hash ^ hash >> 31) & (XF_PAIR_SLOTS - 1), .flow = XF_NO_SLOT };

	if (!packet->fragment)
		order.flow = flow_slot(hash, ports);
	return order;
}

#endif
