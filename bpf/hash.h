/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The hash of a packet's hosts. Included behind `cfg` and parse.h.
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

static __always_inline __u32 slot_of_pair(__u64 hash)
{
	return (hash ^ hash >> 31) & (XF_PAIR_SLOTS - 1);
}

#endif
