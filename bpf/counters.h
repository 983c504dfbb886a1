/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is counted of packets, per CPU. Included behind intf.h. */
#ifndef XDPFRAG_COUNTERS_H
#define XDPFRAG_COUNTERS_H

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_counters);
} counters SEC(".maps");

static __always_inline struct xf_counters *counters_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

/* Counts what was changed in a packet: a bit for each of enum xf_edit that edit() makes. */
static __always_inline void count_edits(struct xf_counters *count, __u32 edits)
{
	if (edits & 1 << XF_EDIT_DF)
		count->edit[XF_EDIT_DF]++;
	if (edits & 1 << XF_EDIT_MSS)
		count->edit[XF_EDIT_MSS]++;
}

#endif
