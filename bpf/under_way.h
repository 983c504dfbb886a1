/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is between GRO and the stack: pieces of TCP segments that were cut, on
 * their way through a CPU's backlog. What else their flow sends goes after them.
 * Included after hash.h.
 */
#ifndef XDPFRAG_UNDER_WAY_H
#define XDPFRAG_UNDER_WAY_H

/*
 * Ticks of the kernel, 0.1 to 1 s: nothing stays in a backlog for so long. If the last one has not come back then, it
 * was dropped there. A tick is read as fast as any variable, the time is not.
 */
#define UNDER_WAY_TICKS 100

/* By flow_slot(). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XF_FLOW_SLOTS);
	__type(key, __u32);
	__type(value, struct xf_under_way);
} under_way SEC(".maps");

static __always_inline bool is_under_way(__u32 flow)
{
	struct xf_under_way *pieces = bpf_map_lookup_elem(&under_way, &flow);

	/* Signed: another core may have set it and have read the tick later. */
	return pieces && pieces->sent != pieces->back && (__s64)(bpf_jiffies64() - pieces->last) < UNDER_WAY_TICKS;
}

#endif
