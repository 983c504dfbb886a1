/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which packets go after another to the worker, so that none overtakes it: those
 * of a flow that sent an oversize one, until that has been handed back.
 * Fragments stay behind every whole packet of their two hosts, and every whole
 * packet behind them, for sticky_ns.
 *
 * Included by xdpfrag.bpf.c behind `cfg`, hash.h, lately.h and heartbeat.h.
 */
#ifndef XDPFRAG_ORDER_H
#define XDPFRAG_ORDER_H

/*
 * When a flow of this hash last went to the worker: an XF_STAMP. Where workers
 * cannot tell what they have handed back, it comes back once it has been silent
 * for sticky_ns: with no pause a frame on the short way could overtake the one
 * before it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XF_FLOW_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} flows SEC(".maps");

/* When packets between two hosts last went to a worker: XF_STAMPs of any, for they may come on several queues. */
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

/* True if what goes after a packet with this stamp has to follow it. */
static __always_inline bool follows(__u64 stamp)
{
	__u32 queue = stamp & XF_STAMP_QUEUE;
	struct xf_heartbeat *worker;
	__u64 served;

	/* Signed: another core may have set it and have read the clock later. */
	if (!stamp || (__s64)((bpf_ktime_get_ns() << 8) - XF_STAMP_NS(stamp)) >= (__s64)(cfg.sticky_ns << 8))
		return false;
	if (queue == XF_STAMP_QUEUE)
		return true;
	worker = bpf_map_lookup_elem(&heartbeats, &queue);
	served = worker ? *(volatile __u64 *)&worker->served_ns : 0;
	return !served || (__s64)((served << 8) - XF_STAMP_NS(stamp)) < 0;
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

/* The packet in this place goes to the worker of `queue` now. */
__noinline int note_order(__u32 pair, __u32 flow, __u64 now, __u32 queue)
{
	struct xf_pair_stamps *hosts = bpf_map_lookup_elem(&pairs, &pair);
	__u64 *own = bpf_map_lookup_elem(&flows, &flow);
	__u64 of_any = XF_STAMP(now, XF_STAMP_QUEUE);

	if (!hosts)
		return 0;
	note_redirect();
	if (!own) {
		hosts->fragment = of_any;
		return 0;
	}
	*own = queue < XF_STAMP_QUEUE ? XF_STAMP(now, queue) : of_any;
	hosts->whole = of_any;
	return 0;
}

#endif
