/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Order within a flow: when it last went to the worker. Included behind `cfg`
 * and parse.h.
 */
#ifndef XDPFRAG_FLOW_H
#define XDPFRAG_FLOW_H

#include "hash.h"

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

/* The slot of the flow with these ports. A collision makes another flow ride along: harmless. */
static __always_inline __u32 flow_slot(__u64 pair, __be16 source, __be16 dest)
{
	__u64 hash = mix(pair, 1ull << 32 | (__u32)source << 16 | dest);

	return (hash ^ hash >> 31) & (XF_FLOW_SLOTS - 1);
}

/* True if a flow with this stamp still follows its oversize frame. */
static __always_inline bool follows(__u64 stamp)
{
	/* Signed: another core may have set it and have read the clock later. */
	return stamp && (__s64)(bpf_ktime_get_ns() - stamp) < (__s64)cfg.sticky_ns;
}

#endif
