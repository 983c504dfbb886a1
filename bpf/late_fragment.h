/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An IPv4 packet becomes two fragments, as src/packet/fragment.rs makes them.
 * Included by late.bpf.c behind late_queue.h.
 */
#ifndef XDPFRAG_LATE_FRAGMENT_H
#define XDPFRAG_LATE_FRAGMENT_H

/* Identifications, which the workers take from the same counters (src/packet/ident.rs). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XF_IDENTS);
	__type(key, __u32);
	__type(value, __u64);
} idents SEC(".maps");

/* A fresh identification for packets with this hash; false if there is none. Never 0: see Idents::next(). */
static __always_inline bool next_ident(__u64 hash, __be16 *id)
{
	__u32 slot = (hash ^ hash >> 31) & (XF_IDENTS - 1);
	__u64 *counter = bpf_map_lookup_elem(&idents, &slot);

	if (!counter)
		return false;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__u16 next = __sync_fetch_and_add(counter, 1) << cfg.ident_bits | cfg.ident_part;

		*id = bpf_htons(next);
		if (next)
			break;
	}
	return true;
}

/* Writes the header of a fragment with `len` bytes of data. */
static __always_inline long write_header(struct __sk_buff *skb, __u32 l3, const struct iphdr *was, __be16 id,
					 __u32 len, __u16 flags_offset)
{
	struct iphdr ip = *was;

	xf_make_fragment(&ip, len, id, flags_offset);
	return bpf_skb_store_bytes(skb, l3, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* What the copy that becomes the second fragment has in skb->cb[4]; never 0. */
#define REST(share, id)	 ((share) / 8 << 16 | (id))
#define REST_SHARE(rest) ((rest) >> 16 << 3)
#define REST_ID(rest)	 ((__be16)(rest))

/*
 * Queues a copy that becomes the second fragment when it comes back, and makes
 * `skb` the first one, which goes on at once: it may overtake the second of a
 * datagram before it, but no datagram is complete before its second.
 */
static __always_inline int fragment(struct __sk_buff *skb, const struct xf_packet *packet, __u32 mtu,
				    const struct place *place, struct xf_cpu *cpu)
{
	__u16 kept = packet->frag_off & ~(XF_IP_DF | XF_IP_MF | XF_IP_OFFSET), offset = packet->frag_off & XF_IP_OFFSET;
	__u32 share = xf_first_share(mtu), l3 = packet->l3;
	struct iphdr ip = *packet->ip;
	__be16 id = ip.id;

	if (packet->frag_off & XF_IP_DF && !next_ident(place->hash, &id)) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	if (!queue_copy(skb, place, cpu, REST(share, id)) || bpf_skb_change_tail(skb, l3 + sizeof(ip) + share, 0) ||
	    write_header(skb, l3, &ip, id, share, kept | XF_IP_MF | offset)) {
		cpu->late[XF_LATE_LOST]++;
		return TC_ACT_SHOT;
	}
	forget_token(skb);
	cpu->late[XF_LATE_DATAGRAM]++;
	return TC_ACT_UNSPEC;
}

/* Makes the copy the second fragment. */
static __always_inline int second_fragment(struct __sk_buff *skb, __u32 rest, struct xf_cpu *cpu)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct scratch *room = scratch_of_cpu();
	__u32 share = REST_SHARE(rest), at, len;
	struct xf_packet packet;
	struct iphdr ip;
	__u16 kept;

	if (!room || xf_parse(data, end, skb->len, &packet) != XF_FITS || packet.v6)
		goto lost;
	ip = *packet.ip;
	at = packet.l3 + sizeof(ip);
	len = packet.total - sizeof(ip) - share;
	if (!len || len > TAIL_MAX)
		goto lost;
	/* Masked anew: the verifier of Linux 7 does not keep that it is not 0. */
	barrier_var(len);
	len = ((len - 1) & (TAIL_MAX - 1)) + 1;
	if (bpf_skb_load_bytes(skb, at + share, room->tail, len) || !become_second(skb, room, at, len))
		goto lost;
	kept = packet.frag_off & ~(XF_IP_DF | XF_IP_OFFSET);
	if (!write_header(skb, packet.l3, &ip, REST_ID(rest), len,
			  kept | ((packet.frag_off & XF_IP_OFFSET) + share / 8)))
		return TC_ACT_UNSPEC;
lost:
	cpu->late[XF_LATE_LOST]++;
	return TC_ACT_SHOT;
}

#endif
