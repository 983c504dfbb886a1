/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a CPU has for itself: one look-up for all of it. The XDP program makes
 * the map, and late.bpf.c is loaded with the same one. Included behind intf.h.
 */
#ifndef XDPFRAG_CPU_H
#define XDPFRAG_CPU_H

#define CACHE_BITS 10

/* What is remembered of a destination, see route_cache.h. */
struct cached {
	__u64 check;	/* destination and generation, XOR the two below */
	__u64 rule;	/* as of rule_of() */
	__u64 selector; /* of the route */
};

struct xf_cpu {
	/* Of the program behind GRO: what is under way through this CPU's backlog. */
	__u64 sent, back; /* how many were queued, and have come back or were lost */
	__u64 last;	  /* tick of the kernel in which one was queued last */
	__u64 flows;	  /* of which flows they are, one bit for many */

	/* Of the XDP program: the host whose last oversize segment looked unfinished, see unfinished_again(). */
	__u64 unfinished;

	struct xf_counters counters; /* of both programs */
	__u64 late[XF_LATE_MAX];     /* packets, of the one behind GRO */
	struct cached routes[1 << CACHE_BITS];
};

/* One value and not one for each route: the kernel allocates each for itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_cpu);
} cpus SEC(".maps");

static __always_inline struct xf_cpu *this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cpus, &zero);
}

#endif
