/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is between XDP and the stack: pieces that the program behind GRO has cut
 * off, on their way through a CPU's backlog. Whatever else their two hosts send
 * goes after them. The XDP program makes the map, and late.bpf.c is loaded with
 * the same one.
 */
#ifndef XDPFRAG_UNDER_WAY_H
#define XDPFRAG_UNDER_WAY_H

#include "hash.h"

/* Nothing stays in a backlog for so long: what has not come back then was dropped there. */
#define UNDER_WAY_NS 100000000ull

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XF_PAIR_SLOTS);
	__type(key, __u32);
	__type(value, struct xf_under_way);
} under_way SEC(".maps");

static __always_inline bool is_under_way(const struct xf_under_way *pieces, __u64 now)
{
	return pieces && pieces->packets > 0 && (__s64)(now - pieces->last_ns) < (__s64)UNDER_WAY_NS;
}

#endif
