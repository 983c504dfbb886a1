/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How many packets a CPU has to fragment. Included by xdpfrag.bpf.c.
 */
#ifndef XDPFRAG_PACE_H
#define XDPFRAG_PACE_H

#define PACE_NS 1000000ull /* a millisecond */
/* Packets in one: with more, calls that hand back whole batches cost less than two trips through the backlog each. */
#define PACE_MAX 200

struct pace {
	__u64 since;   /* CLOCK_MONOTONIC ns */
	__u32 packets; /* since then */
	__u32 busy;    /* there were too many in the millisecond before */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pace);
} paces SEC(".maps");

/* Counts one more packet; true if there are too many. */
static __always_inline bool busy(__u64 now)
{
	__u32 zero = 0;
	struct pace *pace = bpf_map_lookup_elem(&paces, &zero);

	if (!pace)
		return false;
	if (now - pace->since >= PACE_NS) {
		pace->busy = pace->packets > PACE_MAX && now - pace->since < 2 * PACE_NS;
		pace->since = now;
		pace->packets = 0;
	}
	pace->packets++;
	return pace->busy || pace->packets > PACE_MAX;
}

#endif
