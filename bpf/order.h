/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which packets go after another to the worker, so that none overtakes it.
 * Included by xdpfrag.bpf.c behind `cfg`, `shared` and parse.h.
 *
 * Whole packets are told apart by port. Fragments carry no ports: they stay
 * behind every whole packet of their two hosts, and every whole packet behind
 * them.
 */
#ifndef XDPFRAG_ORDER_H
#define XDPFRAG_ORDER_H

#include "flow.h"

/* When packets between two hosts last went to the worker, CLOCK_MONOTONIC ns. */
struct xf_pair_stamps {
	__u64 whole;
	__u64 fragment;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XF_PAIR_SLOTS);
	__type(key, __u32);
	__type(value, struct xf_pair_stamps);
} pairs SEC(".maps");

/* A packet's place in the order: slots of both maps, XF_NO_SLOT for none. */
struct xf_order {
	__u32 pair;
	__u32 flow; /* of a whole packet */
};

#define XF_NO_SLOT (~0u)

/* Behind xf_find_tcp(). Protocols without ports, or with extension headers before them, are one flow per pair. */
static __always_inline struct xf_order order_of(void *end, const struct xf_packet *packet, const struct xf_tcp *tcp)
{
	__u64 hash = hash_of_pair(packet);
	struct xf_order order = { .pair = slot_of_pair(hash), .flow = XF_NO_SLOT };
	__u8 protocol = packet->v6 ? packet->ip6->nexthdr : packet->ip->protocol;
	__be16 source = tcp->source, dest = tcp->dest;
	__u32 ihl = packet->ihl;
	struct udphdr *udp;

	if (packet->fragment)
		return order;
	if (protocol == IPPROTO_UDP) {
		/* Masked anew, as in xf_find_tcp(). */
		barrier_var(ihl);
		udp = (void *)packet->ip + (ihl & 0x3c);
		if ((void *)(udp + 1) <= end) {
			source = udp->source;
			dest = udp->dest;
		}
	}
	order.flow = flow_slot(hash, source, dest);
	return order;
}

/*
 * False if nothing can go after another, since nothing went to a worker lately:
 * neither the hash nor the two look-ups are needed then. By the tick, which is
 * read as fast as any variable.
 */
static __always_inline bool redirected_lately(void)
{
	__u64 last = shared.last_redirect;

	/* Signed, also for XF_HELD, which lies ahead. */
	return last && (__s64)(bpf_jiffies64() - last) < cfg.sticky_ticks;
}

/*
 * What follows looks the slots up. Global functions, which the verifier goes
 * through once: pointers that may be NULL it would have to follow through the
 * rest of the program in every combination.
 */

/* 1 if the packet in this place has to go after one that went to the worker. */
__noinline int goes_after(__u32 pair, __u32 flow)
{
	struct xf_pair_stamps *hosts = bpf_map_lookup_elem(&pairs, &pair);
	__u64 *own = bpf_map_lookup_elem(&flows, &flow);

	if (!hosts)
		return 0;
	return follows(hosts->fragment) || follows(own ? *own : hosts->whole);
}

/* The packet in this place goes to the worker now. */
__noinline int note_order(__u32 pair, __u32 flow, __u64 now)
{
	struct xf_pair_stamps *hosts = bpf_map_lookup_elem(&pairs, &pair);
	__u64 *own = bpf_map_lookup_elem(&flows, &flow), tick = bpf_jiffies64();

	if (!hosts)
		return 0;
	/* Once a tick, so that CPUs do not pass its cache line round. */
	if (shared.last_redirect != tick)
		shared.last_redirect = tick;
	if (!own) {
		hosts->fragment = now;
		return 0;
	}
	*own = now;
	hosts->whole = now;
	return 0;
}

#endif
