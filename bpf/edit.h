/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is changed in a packet. Included after parse.h, where xf_pull,
 * xf_update_check, xf_put16 and xf_write_ip are defined as well.
 *
 * A tc program writes by helpers alone: one that wrote through pointers would have
 * each packet copied for it that an AF_PACKET socket has seen (bpf_unclone_prologue()),
 * and with that the mark of XDP lost (mark.h).
 */
#ifndef XDPFRAG_EDIT_H
#define XDPFRAG_EDIT_H

/* Where a TCP header begins at most: a bound that the verifier wants. */
#define L4_MAX 16384
/* Where an MSS option stands at most in a list. */
#define LAST_MSS (XF_OPT_MAX - XF_TCP_OPT_MSS_LEN)

/* What walk_options() is to do. */
struct xf_mss {
	__u32 l4;    /* offset of the TCP header */
	__u32 len;   /* of its options, bytes */
	__u16 limit; /* the largest MSS */
	__u16 dry;   /* only look */
	struct xf_walk walk;
};

/* See lower_mss(). Global: the verifier goes through it once and by itself, hence the check for NULL. */
__noinline int walk_options(XF_CTX *ctx, struct xf_mss *mss)
{
	volatile struct xf_walk *walk;
	__u32 at, l4, len, i;
	void *end, *list;
	__u16 limit;

	if (!mss)
		return 0;
	walk = &mss->walk;
	l4 = mss->l4;
	len = mss->len;
	limit = mss->limit;
	if (l4 > L4_MAX || len < XF_TCP_OPT_MSS_LEN || len > XF_OPT_MAX)
		return 0;
	at = l4 + sizeof(struct tcphdr);
	if ((void *)(long)ctx->data + at + len > (void *)(long)ctx->data_end && !xf_pull(ctx, at + len))
		return 0;
	list = (void *)(long)ctx->data + at;
	end = (void *)(long)ctx->data_end;
	for (int n = 0; n <= LAST_MSS; n++) {
		i = walk->at;
		if (i > LAST_MSS || i > len - XF_TCP_OPT_MSS_LEN || list + i + XF_TCP_OPT_MSS_LEN > end ||
		    !xf_find_mss(list + i, len, limit, walk))
			break;
	}
	if (!walk->found || mss->dry)
		return !!walk->found;
	for (int n = 0; n < XF_OPT_MAX / XF_TCP_OPT_MSS_LEN; n++) {
		i = walk->place[n];
		if (n >= walk->found || i > LAST_MSS || list + i + XF_TCP_OPT_MSS_LEN > end)
			break;
		xf_lower_mss(list + i, i, limit, walk);
	}
	for (int n = 0; n < XF_OPT_MAX / XF_TCP_OPT_MSS_LEN; n++) {
		i = walk->place[n];
		if (n >= walk->found || i > LAST_MSS || !xf_put16(ctx, at + i + 2, bpf_htons(limit)))
			break;
	}
	return !xf_update_check(ctx, l4 + offsetof(struct tcphdr, check), walk->delta);
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

/* Takes DF out of an IPv4 header, which gets this identification. Pointers into a tc program's packet are void after it. */
static __always_inline void write_without_df(XF_CTX *ctx, const struct xf_packet *packet, __be16 id)
{
	const struct iphdr *ip = packet->ip;
	__be16 frag_off = ip->frag_off & ~bpf_htons(XF_IP_DF);
	__u32 delta = (__u16)~ip->frag_off + frag_off + (__u16)~ip->id + id;

	xf_write_ip(ctx, packet, id, frag_off, xf_csum_update(ip->check, delta));
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

	if (without_df && !packet->v6 && packet->frag_off & XF_IP_DF) {
		write_without_df(ctx, packet, packet->ip->id);
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
