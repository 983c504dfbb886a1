/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in packets that fit, in place. Included by xdpfrag.bpf.c
 * behind `cfg` and parse.h.
 */
#ifndef XDPFRAG_EDIT_H
#define XDPFRAG_EDIT_H

static __always_inline void clear_df(struct iphdr *ip)
{
	__be16 old = ip->frag_off;

	ip->frag_off = old & ~bpf_htons(XF_IP_DF);
	ip->check = xf_csum_update(ip->check, (__u16)~old + ip->frag_off);
}

/* Where a TCP header begins at most: a bound that the verifier wants. */
#define L4_MAX 16384

/*
 * Copies a TCP option list out of the frame. From the linear part without a
 * helper, which takes longer than the walk through the list.
 */
static __always_inline bool read_options(struct xdp_md *ctx, __u32 at, struct xf_options *options)
{
	void *end = (void *)(long)ctx->data_end, *list = (void *)(long)ctx->data + at;

	if (list + options->len > end)
		return !bpf_xdp_load_bytes(ctx, at, options->byte, xf_options_len(options));
#pragma unroll
	for (__u32 i = 0; i < XF_OPT_MAX; i += 4) {
		if (i >= options->len || list + i + 4 > end)
			break;
		*(__u32 *)&options->byte[i] = *(__u32 *)(list + i);
	}
	return true;
}

/* Puts it back. */
static __always_inline void write_options(struct xdp_md *ctx, __u32 at, struct xf_options *options)
{
	void *end = (void *)(long)ctx->data_end, *list = (void *)(long)ctx->data + at;

	if (list + options->len > end) {
		bpf_xdp_store_bytes(ctx, at, options->byte, xf_options_len(options));
		return;
	}
#pragma unroll
	for (__u32 i = 0; i < XF_OPT_MAX; i += 4) {
		if (i >= options->len || list + i + 4 > end)
			break;
		*(__u32 *)(list + i) = *(__u32 *)&options->byte[i];
	}
}

/*
 * Lowers the MSS in the `len` bytes of options behind the TCP header at `l4`, and
 * adapts the checksum. Answers 1 if there was one to lower; `dry` leaves it.
 */
__noinline int lower_mss(struct xdp_md *ctx, __u32 l4, __u32 len, __u16 limit, bool dry)
{
	struct xf_options options = { .len = len };
	__u32 at = l4 + sizeof(struct tcphdr), delta;
	void *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp;
	__sum16 check;

	if (l4 > L4_MAX || len > XF_OPT_MAX || !read_options(ctx, at, &options))
		return 0;
	delta = xf_clamp_mss(&options, limit);
	if (!delta || dry)
		return !!delta;
	write_options(ctx, at, &options);
	tcp = (void *)(long)ctx->data + l4;
	if ((void *)(tcp + 1) <= end) {
		tcp->check = xf_csum_update(tcp->check, delta);
		return 1;
	}
	at = l4 + offsetof(struct tcphdr, check);
	if (!bpf_xdp_load_bytes(ctx, at, &check, sizeof(check))) {
		check = xf_csum_update(check, delta);
		bpf_xdp_store_bytes(ctx, at, &check, sizeof(check));
	}
	return 1;
}

/*
 * Edits a packet that fits, or answers XF_UNFINISHED for one to be edited by a
 * worker: all that can fail happens before the first byte is changed.
 */
static __always_inline enum xf_reason edit(struct xdp_md *ctx, const struct xf_packet *packet,
					   const struct xf_tcp *tcp, const struct xf_route *route,
					   struct xf_counters *count)
{
	__u16 mss = packet->v6 ? route->mss6 : route->mss4;

	if (tcp->options_len && mss) {
		bool dry = !packet->fragment && xf_unfinished(packet, IPPROTO_TCP, tcp->len, tcp->check);

		if (lower_mss(ctx, tcp->l4, tcp->options_len, mss, dry)) {
			if (dry)
				return XF_UNFINISHED;
			count->edit[XF_EDIT_MSS]++;
		}
	}
	if (!packet->v6 && cfg.df == XF_DF_CLEAR && packet->frag_off & XF_IP_DF) {
		clear_df(packet->ip);
		count->edit[XF_EDIT_DF]++;
	}
	return XF_FITS;
}

#endif
