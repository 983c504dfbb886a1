/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The least that can be done with a frame: what bounds everything else. Nothing
 * is looked for that is known of the generator's frames. Included by
 * bench.bpf.c.
 */
#ifndef XDPFRAG_BENCH_BOUNDS_H
#define XDPFRAG_BENCH_BOUNDS_H

/* The least that XDP can do. */
SEC("xdp")
int bench_drop(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct bench_seen *sum = bpf_map_lookup_elem(&seen, &zero);

	if (sum)
		sum->packets++;
	return XDP_DROP;
}

/* What XDP costs that does nothing, */
SEC("xdp")
int bench_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* and tcx. */
SEC("tc")
int bench_next(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* DF, and the MSS of SYNs, both where they always are. */
static __always_inline void least_edit(struct __sk_buff *skb)
{
	struct bench_headers *h = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);
	__sum16 *check;
	__be16 *mss, old;

	if ((void *)(h + 1) > (void *)(long)skb->data_end || h->ethernet.h_proto != bpf_htons(ETH_P_IP))
		return;
	xf_clear_df(ip);
	if (ip->protocol != IPPROTO_TCP || !(h->l4[13] & XF_TCP_SYN))
		return;
	mss = (void *)&h->l4[22];
	check = (void *)&h->l4[16];
	old = *mss;
	*mss = bpf_htons(1382);
	*check = xf_csum_update(*check, (__u16)~old + *mss);
}

SEC("tc")
int bench_edit(struct __sk_buff *skb)
{
	least_edit(skb);
	return TC_ACT_UNSPEC;
}

/* Makes a packet's header, which has no options, that of a fragment with `len` bytes of data. */
static __always_inline void make_header(struct iphdr *ip, __u32 len, __be16 id, __u16 flags_offset)
{
	__u32 delta = (__u16)~ip->tot_len + (__u16)~ip->id + (__u16)~ip->frag_off;

	ip->tot_len = bpf_htons(sizeof(*ip) + len);
	ip->id = id;
	ip->frag_off = bpf_htons(flags_offset);
	ip->check = xf_csum_update(ip->check, delta + ip->tot_len + ip->id + ip->frag_off);
}

#define COPY	  0x636f7079 /* in skb->cb of the copy that becomes the second fragment */
#define SHARE	  1400	     /* data in the first one, with an SA MTU of 1422 */
#define PAYLOAD	  (sizeof(struct ethhdr) + sizeof(struct iphdr))
#define REST_MAX  128

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[REST_MAX]);
} rest SEC(".maps");

/* Identifications of what is cut. */
volatile __u32 cuts;

static __always_inline void make_fragment(struct __sk_buff *skb, __u32 len, __be16 id, __u16 flags_offset)
{
	struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) <= (void *)(long)skb->data_end)
		make_header(ip, len, id, flags_offset);
}

/* What does not fit becomes two fragments, of which one has to take the way through the backlog. */
SEC("tc")
int bench_cut(struct __sk_buff *skb)
{
	__u32 len = skb->len - PAYLOAD - SHARE, zero = 0;
	__u16 id;
	__u8 *room;

	if (skb->len <= PAYLOAD + SHARE) {
		least_edit(skb);
		return TC_ACT_UNSPEC;
	}
	if (skb->cb[0] != COPY) {
		id = cuts++;
		skb->cb[0] = COPY;
		skb->cb[1] = id;
		if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) ||
		    bpf_skb_change_tail(skb, PAYLOAD + SHARE, 0))
			return TC_ACT_SHOT;
		skb->cb[0] = 0;
		make_fragment(skb, SHARE, id, XF_IP_MF);
		return TC_ACT_UNSPEC;
	}
	id = skb->cb[1];
	skb->cb[0] = 0;
	room = bpf_map_lookup_elem(&rest, &zero);
	barrier_var(len);
	if (!room || !len || len > REST_MAX || bpf_skb_load_bytes(skb, PAYLOAD + SHARE, room, len) ||
	    bpf_skb_change_tail(skb, PAYLOAD + len, 0) || bpf_skb_store_bytes(skb, PAYLOAD, room, len, 0))
		return TC_ACT_SHOT;
	make_fragment(skb, len, id, SHARE / 8);
	return TC_ACT_UNSPEC;
}

/* The least that AF_XDP can do: the frame, and in front of it what a worker has to know. */
SEC("xdp")
int bench_socket(struct xdp_md *ctx)
{
	struct xf_meta *meta;

	if (!bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta))) {
		meta = (void *)(long)ctx->data_meta;
		if ((void *)(meta + 1) <= (void *)(long)ctx->data)
			*meta = (struct xf_meta){
				.rx_ns = bpf_ktime_get_ns(), .mtu = 1422, .mss4 = 1382, .magic = XF_META_MAGIC
			};
	}
	return bpf_redirect_map(&sockets, 0, XDP_DROP);
}

#endif
