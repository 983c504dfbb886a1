/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What fits, and XDP has left unread, see left_unread() in xdpfrag.bpf.c.
 * Included by late.bpf.c behind `cfg`, `live`, edit.h, counters.h and lately.h.
 */
#ifndef XDPFRAG_LATE_FIT_H
#define XDPFRAG_LATE_FIT_H

/*
 * False if XDP has read for a while now whatever comes: nothing that it left
 * unread is on its way to here. What workers hand back is not looked at then.
 */
static __always_inline bool left_to_us(void)
{
	__u64 redirects = shared.redirects;

	if (!(cfg.leave & XF_LEAVE_FITTING))
		return false;
	return !cfg.sticky_ns || !redirected_lately() ||
	       (redirects != XF_HELD &&
		(__u32)bpf_jiffies64() - XF_REDIRECTS_SINCE(redirects) <= cfg.grace_ticks);
}

/* Bytes of the longest of the packets that GRO has merged; of one that stayed alone, for which gso_size is 0. */
static __always_inline __u32 longest(__u32 gso_size, const struct xf_packet *packet, const struct xf_tcp *tcp)
{
	__u32 header = tcp->l4 ? tcp->header_len : sizeof(struct udphdr);

	return gso_size ? packet->ihl + header + gso_size : packet->total;
}

/*
 * Edits a packet that fits.
 *
 * What is merged keeps DF: inet_gso_segment() cuts no packet without DF whose
 * segments had one identification, and nothing here tells those apart.
 *
 * skb->csum (CHECKSUM_COMPLETE) stays right: with their checksums, the headers
 * add up to what they did before.
 */
static __always_inline void fit(struct __sk_buff *skb, __u32 gso_size, const struct xf_packet *packet,
				const struct xf_tcp *tcp, const struct xf_route *route)
{
	__u32 edits = edit(skb, packet, tcp, route, cfg.df == XF_DF_CLEAR && !gso_size);
	struct xf_counters *count = edits ? counters_of_cpu() : NULL;

	if (count)
		count_edits(count, edits);
}

/*
 * Counts under `reason` what XDP has left unread, and counted as what fits, of
 * packets of which the longest came in a frame of `len` bytes: of merged ones
 * the last may be shorter. When XDP begins to read, a packet on its way to here
 * stays counted as one that fits.
 */
static __always_inline void recount(const struct __sk_buff *skb, enum xf_reason reason, __u32 len)
{
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1, last = skb->len - (packets - 1) * skb->gso_size;
	struct xf_counters *count;

	if (!leaves_unread())
		return;
	if (len > live.fitting) {
		if (last > live.fitting)
			return;
		packets = 1;
	}
	count = counters_of_cpu();
	if (!count)
		return;
	count->reason[XF_FITS] -= packets;
	count->reason[reason] += packets;
}

#endif
