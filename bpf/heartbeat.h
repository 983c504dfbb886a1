/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a worker serves its queue. Included by xdpfrag.bpf.c behind `cfg` and
 * `xsks`.
 */
#ifndef XDPFRAG_HEARTBEAT_H
#define XDPFRAG_HEARTBEAT_H

/* Workers by RX queue, mapped into the process that owns them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_heartbeat);
} heartbeats SEC(".maps");

/*
 * A worker may be silent for half of stall_ns, and for the other half from the
 * first frame that finds it so: where the whole machine was held up, as a VM
 * is by its host, frames come before the worker has had a chance to beat.
 */
static __always_inline bool in_time(struct xf_heartbeat *heartbeat, __u64 now)
{
	__u64 last = *(volatile __u64 *)&heartbeat->ns;
	__s64 half = cfg.stall_ns / 2;

	if (!last)
		return false;
	/* Signed: the worker, or the queue a moment ago, may run on another core and have read the clock later. */
	if ((__s64)(now - last) <= half)
		return true;
	if (heartbeat->missed != last) {
		heartbeat->missed_at = now;
		barrier();
		heartbeat->missed = last;
	}
	return (__s64)(now - heartbeat->missed_at) <= half;
}

static __always_inline bool worker_alive(__u32 queue, __u64 now)
{
	struct xf_heartbeat *heartbeat = bpf_map_lookup_elem(&heartbeats, &queue);

	return heartbeat && in_time(heartbeat, now) && bpf_map_lookup_elem(&xsks, &queue);
}

#endif
