/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The way through the CPU's backlog. Included by late.bpf.c behind `cfg`,
 * `struct late_counters` and under_way.h.
 *
 * Two packets cannot both go on from the program: both pieces of one take this
 * way (BPF_F_INGRESS), and so does, to keep its order, what their flow sends
 * before they are back. What comes back carries a token in skb->cb and passes.
 */
#ifndef XDPFRAG_LATE_QUEUE_H
#define XDPFRAG_LATE_QUEUE_H

/* More than the backlogs of all CPUs hold (net.core.netdev_max_backlog each, 1000 by default). */
#define UNDER_WAY_MAX 1000000

#define CHUNK	 512 /* longest input of bpf_csum_diff() on older kernels */
#define TAIL_MAX 4096

/* What the stack is too small for. */
struct scratch {
	__u8 tail[TAIL_MAX + CHUNK]; /* data of the second half, zeros behind it */
	__u8 chunk[CHUNK];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* When a packet was queued last, CLOCK_MONOTONIC ns, and how many have not come back. */
volatile __u64 last_queued;
volatile __s64 queued;

/* True if something is under way: else nothing can go after it. */
static __always_inline bool anything_queued(void)
{
	return queued > 0 && (__s64)(bpf_ktime_get_ns() - last_queued) < (__s64)UNDER_WAY_NS;
}

/* Takes note of a packet that is about to be queued. */
static __always_inline void mark(struct __sk_buff *skb, __u32 slot)
{
	struct xf_under_way *pieces = bpf_map_lookup_elem(&under_way, &slot);
	__u64 now = bpf_ktime_get_ns();

	skb->cb[0] = cfg.token;
	skb->cb[1] = cfg.token >> 32;
	skb->cb[2] = slot;
	/* What a backlog had no room for does not come back. */
	if (now - last_queued > UNDER_WAY_NS)
		queued = 0;
	last_queued = now;
	__sync_fetch_and_add(&queued, 1);
	if (!pieces)
		return;
	pieces->last_ns = now;
	__sync_fetch_and_add(&pieces->packets, 1);
}

static __always_inline int queue(struct __sk_buff *skb, __u32 slot)
{
	mark(skb, slot);
	return bpf_redirect(cfg.ifindex, BPF_F_INGRESS);
}

/* Queues a copy; false if there is no memory, or no room in the backlog. */
static __always_inline bool queue_copy(struct __sk_buff *skb, __u32 slot)
{
	struct xf_under_way *pieces;

	mark(skb, slot);
	if (!bpf_clone_redirect(skb, cfg.ifindex, BPF_F_INGRESS))
		return true;
	__sync_fetch_and_add(&queued, -1);
	pieces = bpf_map_lookup_elem(&under_way, &slot);
	if (pieces)
		__sync_fetch_and_add(&pieces->packets, -1);
	return false;
}

/* True for a packet that comes back. */
static __always_inline bool came_back(struct __sk_buff *skb, struct late_counters *count)
{
	__u32 slot = skb->cb[2];
	struct xf_under_way *pieces;

	if (skb->cb[0] != (__u32)cfg.token || skb->cb[1] != cfg.token >> 32)
		return false;
	skb->cb[0] = skb->cb[1] = skb->cb[2] = 0;
	count->packets[XF_LATE_RETURNED]++;
	__sync_fetch_and_add(&queued, -1);
	pieces = bpf_map_lookup_elem(&under_way, &slot);
	if (pieces && pieces->packets > 0)
		__sync_fetch_and_add(&pieces->packets, -1);
	return true;
}

/* True if packets that count there are under way. */
static __always_inline bool any_of(__u32 slot, struct late_counters *count)
{
	struct xf_under_way *pieces = bpf_map_lookup_elem(&under_way, &slot);

	if (!pieces || pieces->packets <= 0)
		return false;
	/* A kernel that wiped the token would send a packet round for ever. */
	if ((__s64)(bpf_ktime_get_ns() - pieces->last_ns) < (__s64)UNDER_WAY_NS)
		return pieces->packets <= UNDER_WAY_MAX;
	/* The backlog had no room for them. */
	count->packets[XF_LATE_LOST] += pieces->packets;
	pieces->packets = 0;
	return false;
}

/* True for a packet that has to go after one that is under way: a fragment after any, lest all are looked at. */
static __always_inline bool goes_after(const struct xf_order *order, struct late_counters *count)
{
	if (order->flow == XF_NO_SLOT)
		return true;
	return any_of(order->flow, count) || any_of(slot_of_fragments(order), count);
}

#endif
