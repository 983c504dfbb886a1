/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in packets that fit, in place. Included behind parse.h, where
 * xf_store and xf_update_check are defined as well.
 */
#ifndef XDPFRAG_EDIT_H
#define XDPFRAG_EDIT_H

/* Where a TCP header begins at most: a bound that the verifier wants. */
#define L4_MAX 16384

/* No list has so many options that their differences would not fit. */
#define DELTA_MASK 0xffffff

/*
 * As xf_clamp_mss(), of the `len` bytes from `list` on, in place: a SYN's options
 * are nearly always in the linear part, and copying them takes longer than this.
 */
static __always_inline __u32 clamp_in_place(void *list, void *end, __u32 len, __u16 limit)
{
	__u64 any = end - list;
	__u32 at = 0, delta = 0;

	/* Pointers must not be taken apart in 32 bits. */
	barrier_var(any);
	delta = xf_forget(delta, any, DELTA_MASK);
	for (int n = 0; n <= XF_OPT_MAX - XF_TCP_OPT_MSS_LEN; n++) {
		__u8 *option;
		__u16 mss;

		if (at > XF_OPT_MAX - XF_TCP_OPT_MSS_LEN || at + XF_TCP_OPT_MSS_LEN > len)
			break;
		/* Else the verifier would try every way through the list. */
		at = xf_forget(at, any, 63);
		option = list + at;
		if ((void *)(option + XF_TCP_OPT_MSS_LEN) > end)
			break;
		if (option[0] == XF_OPT_NOP) {
			at++;
			continue;
		}
		if (option[0] == XF_OPT_END || option[1] < 2)
			break;
		mss = option[2] << 8 | option[3];
		if (option[0] == XF_TCP_OPT_MSS && option[1] == XF_TCP_OPT_MSS_LEN && mss > limit) {
			delta = xf_forget(delta + xf_mss_delta(at, mss, limit), any, DELTA_MASK);
			option[2] = limit >> 8;
			option[3] = limit;
		}
		at += option[1];
	}
	return delta;
}

/*
 * Lowers the MSS in the `len` bytes of options behind the TCP header at `l4`, and
 * adapts the checksum. Answers 1 if there was one to lower; `dry` leaves it.
 */
__noinline int lower_mss(XF_CTX *ctx, __u32 l4, __u32 len, __u16 limit, bool dry)
{
	void *end = (void *)(long)ctx->data_end, *list;
	__u32 at = l4 + sizeof(struct tcphdr), delta;
	struct xf_options options;

	if (l4 > L4_MAX || len > XF_OPT_MAX)
		return 0;
	list = (void *)(long)ctx->data + at;
	if (!dry && list + len <= end) {
		delta = clamp_in_place(list, end, len, limit);
		return delta && !xf_update_check(ctx, l4 + offsetof(struct tcphdr, check), delta);
	}
	options = (struct xf_options){ .len = len };
	if (xf_load(ctx, at, options.byte, xf_options_len(&options)))
		return 0;
	delta = xf_clamp_mss(&options, limit);
	if (!delta || dry)
		return !!delta;
	return !xf_update_check(ctx, l4 + offsetof(struct tcphdr, check), delta) &&
	       !xf_store(ctx, at, options.byte, xf_options_len(&options));
}

/* The largest MSS for a SYN; 0 if there is none to lower. */
static __always_inline __u16 mss_limit(const struct xf_packet *packet, const struct xf_tcp *tcp,
				       const struct xf_route *route)
{
	if (!tcp->options_len)
		return 0;
	return packet->v6 ? route->mss6 : route->mss4;
}

/*
 * Edits a packet that fits, and answers what was changed, a bit for each of enum
 * xf_edit. All of it is done already in one that was edited before.
 */
static __always_inline __u32 edit(XF_CTX *ctx, const struct xf_packet *packet, const struct xf_tcp *tcp,
				  const struct xf_route *route, bool without_df)
{
	__u16 limit = mss_limit(packet, tcp, route);
	__u32 edits = 0;

	/* This first: in a tc program the other one makes pointers into the packet void. */
	if (without_df && !packet->v6 && packet->frag_off & XF_IP_DF) {
		xf_clear_df(packet->ip);
		edits |= 1 << XF_EDIT_DF;
	}
	if (limit && lower_mss(ctx, tcp->l4, tcp->options_len, limit, false))
		edits |= 1 << XF_EDIT_MSS;
	return edits;
}

#endif
