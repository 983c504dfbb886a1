/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A word of XDP metadata that says: xdpfrag has seen to this frame. What the
 * XDP program has read and counted carries it, and so does what a worker has
 * handed back, so that the program behind GRO neither edits nor counts it again.
 * Included after intf.h.
 */
#ifndef XDPFRAG_MARK_H
#define XDPFRAG_MARK_H

/* Marks a frame; false if its driver has no room for metadata. Pointers into the frame are void after it. */
static __always_inline bool xf_mark(struct xdp_md *ctx)
{
	__u32 *word;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*word)))
		return false;
	word = (void *)(long)ctx->data_meta;
	if ((void *)(word + 1) > (void *)(long)ctx->data)
		return false;
	*word = XF_MARK;
	return true;
}

/* True for a packet that was marked. GRO merges none that is with one that is not. */
static __always_inline bool xf_is_marked(const struct __sk_buff *skb)
{
	const __u32 *word = (void *)(long)skb->data_meta;

	return (void *)(word + 1) <= (void *)(long)skb->data && *word == XF_MARK;
}

#endif
