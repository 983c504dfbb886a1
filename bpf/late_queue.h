/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The way through the CPU's backlog. Included by late.bpf.c after `cfg`,
 * cpu.h, `struct place` and under_way.h.
 *
 * Two packets cannot both go on from the program: both pieces of one take this
 * way (BPF_F_INGRESS), and so does, to keep its order, what their flow sends
 * before they are back. What comes back carries a token in skb->cb and passes.
 */
#ifndef XDPFRAG_LATE_QUEUE_H
#define XDPFRAG_LATE_QUEUE_H

#define CHUNK	 512 /* longest input of bpf_csum_diff() on older kernels */
#define TAIL_MAX XF_PIECE_MAX

/* What the stack is too small for. */
struct scratch {
	__u8 tail[TAIL_MAX + CHUNK]; /* data of the second half, zeros after it */
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

/* True if something is under way: else nothing can go after it. */
static __always_inline bool anything_queued(const struct xf_cpu *cpu)
{
	return cpu->sent != cpu->back && bpf_jiffies64() - cpu->last < UNDER_WAY_TICKS;
}

/*
 * The bit of the flow of a packet with these ports, and of others: it is soon
 * said, and spares most packets that come after queued ones a closer look.
 */
static __always_inline __u64 flow_bit(const struct xf_packet *packet, __u32 ports)
{
	__u32 host = packet->v6 ? packet->ip6->saddr.s6_addr32[3] : packet->ip->saddr;
	__u32 remote = packet->v6 ? packet->ip6->daddr.s6_addr32[3] : packet->ip->daddr;
	__u32 hash = (host ^ ports) * 0x9e3779b1 ^ remote;

	return 1ull << (hash * 0x85ebca6b >> 26);
}

/* Takes note of a packet that is about to be queued. */
static __always_inline void note_queued(struct __sk_buff *skb, const struct place *place, struct xf_cpu *cpu)
{
	struct xf_under_way *pieces;
	__u64 tick = bpf_jiffies64();
	__u32 slot = place->slot;

	skb->cb[0] = cfg.token;
	skb->cb[1] = cfg.token >> 32;
	skb->cb[2] = slot;
	if (tick - cpu->last > UNDER_WAY_TICKS)
		cpu->back = cpu->sent;
	if (cpu->back == cpu->sent)
		cpu->flows = 0;
	cpu->last = tick;
	cpu->flows |= place->flow;
	cpu->sent++;
	pieces = bpf_map_lookup_elem(&under_way, &slot);
	if (!pieces)
		return;
	pieces->last = tick;
	skb->cb[3] = __sync_fetch_and_add(&pieces->sent, 1) + 1;
}

/* One by one: the verifier takes no pointer into the context. */
static __always_inline void forget_token(struct __sk_buff *skb)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		*(volatile __u32 *)&skb->cb[i] = 0;
}

static __always_inline int queue(struct __sk_buff *skb, const struct place *place, struct xf_cpu *cpu)
{
	note_queued(skb, place, cpu);
	return bpf_redirect(cfg.ifindex, BPF_F_INGRESS);
}

/* Queues a copy; false if there is no memory, or no room in the backlog. */
static __always_inline bool queue_copy(struct __sk_buff *skb, const struct place *place, struct xf_cpu *cpu)
{
	note_queued(skb, place, cpu);
	return !bpf_clone_redirect(skb, cfg.ifindex, BPF_F_INGRESS);
}

/* True for a packet that comes back. */
static __always_inline bool has_token(const struct __sk_buff *skb)
{
	return skb->cb[0] == (__u32)cfg.token && skb->cb[1] == cfg.token >> 32;
}

/*
 * Takes note of one that has. A backlog is a queue: what was sent before it and
 * has not come back was dropped there. Without a slot it is what a worker hands
 * back through a device of its own (redirect.bpf.c).
 */
static __always_inline void note_return(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	__u32 slot = skb->cb[2], number = skb->cb[3];
	struct xf_under_way *pieces;
	__s32 missing;

	forget_token(skb);
	if (slot == XF_NO_SLOT)
		return;
	cpu->late[XF_LATE_RETURNED]++;
	cpu->back++;
	pieces = bpf_map_lookup_elem(&under_way, &slot);
	if (!pieces)
		return;
	missing = number - pieces->back - 1;
	/* Below 0: of another flow in this slot, by way of another CPU. */
	if (missing < 0)
		return;
	pieces->back = number;
	if (missing) {
		cpu->late[XF_LATE_LOST] += missing;
		cpu->back += missing;
	}
}

/*
 * Makes `skb`, of which the first piece has been queued, the second one: its data
 * waited aside, since a packet can only be cut at its end. The headers are not
 * written yet.
 */
static __always_inline bool become_second(struct __sk_buff *skb, const struct scratch *room, __u32 data, __u32 len)
{
	return !bpf_skb_change_tail(skb, data + len, 0) &&
	       !bpf_skb_store_bytes(skb, data, room->tail, len, BPF_F_RECOMPUTE_CSUM);
}

#endif
