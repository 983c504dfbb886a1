/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Order within a flow: when it last went to the worker. Included behind `cfg`
 * and parse.h.
 */
#ifndef XDPFRAG_FLOW_H
#define XDPFRAG_FLOW_H

/*
 * When a flow of this hash last went to the worker, CLOCK_MONOTONIC ns. Its
 * first oversize frame takes it there; it comes back once it has been silent
 * for sticky_ns: with no pause a frame on the short way could overtake the one
 * before it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XF_FLOW_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

/* Odd constants of splitmix64. */
static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9;
	return ((hash ^ hash >> 27) + word) * 0x94d049bb133111eb;
}

/* Of addresses, and for IPv4 of the protocol, which IPv6 fragments have behind their headers. */
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
static __always_inline __u32 flow_slot(__u64 pair, __be16 source, __be16 dest)
{
	__u64 hash = mix(pair, 1ull << 32 | (__u32)source << 16 | dest);

	return (hash ^ hash >> 31) & (XF_FLOW_SLOTS - 1);
}

static __always_inline __u64 *flow_stamp(__u64 pair, __be16 source, __be16 dest)
{
	__u32 slot = flow_slot(pair, source, dest);

	return bpf_map_lookup_elem(&flows, &slot);
}

/* True if a flow with this stamp still follows its oversize frame. */
static __always_inline bool follows(__u64 stamp)
{
	/* Signed: another core may have set it and have read the clock later. */
	return stamp && (__s64)(bpf_ktime_get_ns() - stamp) < (__s64)cfg.sticky_ns;
}

#endif
