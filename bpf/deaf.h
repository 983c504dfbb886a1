/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * --force deaf: which hosts do not listen to the kernel's "too big". Included
 * by xdpfrag.bpf.c, behind `cfg` and parse.h.
 *
 * A full table forgets the entry unused for longest: while more new pairs come
 * within the grace time than `warned` holds, no new host is found to be deaf.
 */
#ifndef XDPFRAG_DEAF_H
#define XDPFRAG_DEAF_H

#include "deaf_hosts.h"

/* Since when the kernel answers this source's oversize packets to this destination. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, XF_DEAF_HOSTS);
	__type(key, struct xf_pair);
	__type(value, __u64);
} warned SEC(".maps");

/* Reads the addresses of the packet whose IP header is at `l3`. */
static __always_inline bool endpoints(struct xdp_md *ctx, __u32 l3, bool v6, struct xf_pair *pair)
{
	__be32 address[2];

	if (v6) /* They stand in a row. */
		return !xf_load(ctx, l3 + offsetof(struct ipv6hdr, saddr), pair, sizeof(*pair));
	if (xf_load(ctx, l3 + offsetof(struct iphdr, saddr), address, sizeof(address)))
		return false;
	*pair = (struct xf_pair){};
	pair->source.byte[10] = pair->source.byte[11] = 0xff;
	pair->destination.byte[10] = pair->destination.byte[11] = 0xff;
	__builtin_memcpy(&pair->source.byte[12], &address[0], 4);
	__builtin_memcpy(&pair->destination.byte[12], &address[1], 4);
	return true;
}

/*
 * True if an oversize packet is to be served because its source is deaf: it
 * was seen to go on after the kernel's answer. Else the kernel shall answer.
 * Global: the verifier goes through it once.
 */
__noinline int from_deaf_host(const struct xf_pair *endpoints)
{
	__u64 now = bpf_ktime_get_ns(), *since;
	struct xf_deaf *host, fresh = { .since_ns = now, .last_ns = now, .frames = 1 };
	struct xf_pair pair;
	__s64 age;

	if (!endpoints)
		return 0;
	/* Linux 6.1 takes no key from a global function's argument. */
	pair = *endpoints;
	host = bpf_map_lookup_elem(&deaf, &pair.source);
	if (host) {
		host->last_ns = now;
		__sync_fetch_and_add(&host->frames, 1);
		return 1;
	}
	since = bpf_map_lookup_elem(&warned, &pair);
	/* Signed: another core may have read the clock later. */
	age = since ? (__s64)(now - *since) : 0;
	if (since && age < (__s64)cfg.grace_ns)
		return 0;
	if (since && age <= (__s64)cfg.window_ns) {
		bpf_map_update_elem(&deaf, &pair.source, &fresh, BPF_ANY);
		return 1;
	}
	bpf_map_update_elem(&warned, &pair, &now, BPF_ANY);
	return 0;
}

#endif
