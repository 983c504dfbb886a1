/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which packets go after another to the worker, so that none overtakes it.
 * Included by xdpfrag.bpf.c behind `cfg` and parse.h.
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

/* A packet's place in the order; all zero: it keeps none. */
struct xf_order {
	__u64 *flow; /* of a whole packet */
	struct xf_pair_stamps *pair;
};

/* Behind xf_find_tcp(). Protocols without ports, or with extension headers before them, are one flow per pair. */
static __always_inline struct xf_order order_of(void *end, const struct xf_packet *packet, const struct xf_tcp *tcp)
{
	__u64 hash = hash_of_pair(packet);
	__u32 ihl = packet->ihl, slot = (hash ^ hash >> 31) & (XF_PAIR_SLOTS - 1);
	struct xf_order order = { .pair = bpf_map_lookup_elem(&pairs, &slot) };
	__u8 protocol = packet->v6 ? packet->ip6->nexthdr : packet->ip->protocol;
	__be16 source = tcp->source, dest = tcp->dest;
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
	order.flow = flow_stamp(hash, source, dest);
	return order;
}

/* True if the packet has to go after one that went to the worker. */
static __always_inline bool goes_after(const struct xf_order *order)
{
	if (!order->pair)
		return false;
	return follows(order->pair->fragment) || follows(order->flow ? *order->flow : order->pair->whole);
}

/* The packet goes to the worker now. */
static __always_inline void note_order(const struct xf_order *order, __u64 now)
{
	if (!order->pair)
		return;
	if (!order->flow) {
		order->pair->fragment = now;
		return;
	}
	*order->flow = now;
	order->pair->whole = now;
}

#endif
