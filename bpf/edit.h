/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in packets that fit, in place. Included behind parse.h, where
 * xf_store and xf_update_check are defined as well.
 */
#ifndef XDPFRAG_EDIT_H
#define XDPFRAG_EDIT_H

/* Where a TCP header begins at most: a bound that the verifier wants. */
#define L4_MAX 16384

/*
 * What walk_options() is to do, and how far it is. In memory, where the verifier
 * does not follow what a global function has: one option is like the other to it.
 * Linux 6.1 wants every byte set.
 */
struct xf_mss {
	__u32 l4;    /* offset of the TCP header */
	__u32 len;   /* of its options, bytes */
	__u16 limit; /* the largest MSS */
	__u16 dry;   /* only look */
	/* Both 0 before: */
	__u32 at;    /* where the walk stands */
	__u32 delta; /* what it changes in the checksum */
};

/*
 * As xf_clamp_mss(), of the options from `list` on, in place: a SYN's are nearly
 * always in the linear part, and copying them takes longer than this.
 */
static __always_inline __u32 clamp_in_place(void *list, void *end, struct xf_mss *mss)
{
	volatile __u32 *at = &mss->at;
	__u32 last = mss->len - XF_TCP_OPT_MSS_LEN;
	__u16 limit = mss->limit;

	for (int n = 0; n <= XF_OPT_MAX - XF_TCP_OPT_MSS_LEN; n++) {
		__u32 i = *at;

		if (i > XF_OPT_MAX - XF_TCP_OPT_MSS_LEN || i > last || list + i + XF_TCP_OPT_MSS_LEN > end ||
		    !xf_clamp_option(list + i, limit, at, &mss->delta))
			break;
	}
	return mss->delta;
}

/* See lower_mss(). Global: the verifier goes through it once. */
__noinline int walk_options(XF_CTX *ctx, struct xf_mss *mss)
{
	void *end = (void *)(long)ctx->data_end, *list;
	struct xf_options options;
	__u32 at, delta, l4, len;

	if (!mss)
		return 0;
	l4 = mss->l4;
	len = mss->len;
	if (l4 > L4_MAX || len < XF_TCP_OPT_MSS_LEN || len > XF_OPT_MAX)
		return 0;
	at = l4 + sizeof(struct tcphdr);
	list = (void *)(long)ctx->data + at;
	if (!mss->dry && list + len <= end) {
		delta = clamp_in_place(list, end, mss);
		return delta && !xf_update_check(ctx, l4 + offsetof(struct tcphdr, check), delta);
	}
	options = (struct xf_options){ .len = len };
	if (xf_load(ctx, at, options.byte, xf_options_len(&options)))
		return 0;
	delta = xf_clamp_mss(&options, mss->limit);
	if (!delta || mss->dry)
		return !!delta;
	return !xf_update_check(ctx, l4 + offsetof(struct tcphdr, check), delta) &&
	       !xf_store(ctx, at, options.byte, xf_options_len(&options));
}

/*
 * Lowers the MSS in the options of a SYN, and adapts the checksum. True if there
 * was one to lower; `dry` leaves it.
 */
static __always_inline bool lower_mss(XF_CTX *ctx, const struct xf_tcp *tcp, __u16 limit, bool dry)
{
	struct xf_mss mss = { .l4 = tcp->l4, .len = tcp->options_len, .limit = limit, .dry = dry };

	return walk_options(ctx, &mss);
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
	if (limit && lower_mss(ctx, tcp, limit, false))
		edits |= 1 << XF_EDIT_MSS;
	return edits;
}

/* Counts what edit() or edit_whole() has changed. */
static __always_inline void count_edits(struct xf_counters *count, __u32 edits)
{
	if (edits & 1 << XF_EDIT_DF)
		count->edit[XF_EDIT_DF]++;
	if (edits & 1 << XF_EDIT_MSS)
		count->edit[XF_EDIT_MSS]++;
	if (edits & 1 << XF_EDIT_ID)
		count->edit[XF_EDIT_ID]++;
}

#endif
