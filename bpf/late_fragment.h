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

	ip.id = id;
	ip.tot_len = bpf_htons(sizeof(ip) + len);
	ip.frag_off = bpf_htons(flags_offset);
	ip.check = xf_csum_update(was->check, (__u16)~was->tot_len + ip.tot_len + (__u16)~was->id + ip.id +
						      (__u16)~was->frag_off + ip.frag_off);
	return bpf_skb_store_bytes(skb, l3, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* Queues the first fragment, and `skb` as the second. */
static __always_inline int fragment(struct __sk_buff *skb, const struct xf_packet *packet, __u32 mtu, __u64 hash,
				    __u32 slot, struct late_counters *count)
{
	struct scratch *room = scratch_of_cpu();
	__u32 share = xf_first_share(mtu), rest = packet->total - sizeof(struct iphdr) - share;
	__u32 l3 = packet->l3, data = l3 + sizeof(struct iphdr);
	__u16 offset = packet->frag_off & XF_IP_OFFSET, kept = packet->frag_off & ~(XF_IP_DF | XF_IP_MF | XF_IP_OFFSET);
	struct iphdr ip;
	__be16 id;

	barrier_var(rest);
	if (!room || !rest || rest > TAIL_MAX || bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		goto refused;
	id = ip.id;
	if ((packet->frag_off & XF_IP_DF && !next_ident(hash, &id)) ||
	    bpf_skb_load_bytes(skb, data + share, room->tail, rest) ||
	    bpf_skb_change_tail(skb, data + share, 0))
		goto refused;
	if (write_header(skb, l3, &ip, id, share, kept | XF_IP_MF | offset) || !queue_copy(skb, slot) ||
	    !become_second(skb, room, data, rest) ||
	    write_header(skb, l3, &ip, id, rest, kept | (packet->frag_off & XF_IP_MF) | (offset + share / 8))) {
		count->packets[XF_LATE_LOST]++;
		return TC_ACT_SHOT;
	}
	count->packets[XF_LATE_DATAGRAM]++;
	return queue(skb, slot);
refused:
	count->packets[XF_LATE_REFUSED]++;
	return TC_ACT_UNSPEC;
}

#endif
