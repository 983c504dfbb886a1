/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How many packets a CPU has to fragment. Included by xdpfrag.bpf.c.
 */
#ifndef XDPFRAG_PACE_H
#define XDPFRAG_PACE_H

#define PACE_NS 1000000ull /* a millisecond */
/* Packets in one: with more, calls that hand back whole batches cost less than two trips through the backlog each. */
#define PACE_MAX 250
/* With fewer the CPU is no longer busy; it is not there all the time, and then finds many at once. */
#define PACE_MIN 180

struct pace {
	__u64 since;   /* CLOCK_MONOTONIC ns */
	__u32 packets; /* since then */
	__u32 busy;    /* there were too many */
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
		pace->busy &= pace->packets * PACE_NS > PACE_MIN * (now - pace->since);
		pace->since = now;
		pace->packets = 0;
	}
	if (++pace->packets > PACE_MAX)
		pace->busy = 1;
	return pace->busy;
}

#endif
