/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What fits, and XDP has left unread, see left_unread() in xdpfrag.bpf.c.
 * Included by late.bpf.c behind `cfg`, `live`, late_queue.h, edit.h and lately.h.
 */
#ifndef XDPFRAG_LATE_FIT_H
#define XDPFRAG_LATE_FIT_H

#define PLAIN_IPV4 0x45 /* first byte: version 4, and a header of 5 words, which has no options */

/*
 * False if XDP has read for a while now whatever comes: nothing that it left
 * unread is on its way to here. What workers hand back is not looked at then.
 */
static __always_inline bool left_to_us(void)
{
	__u64 redirects = shared.redirects;

	if (!(cfg.leave & XF_LEAVE_FITTING))
		return false;
	return !are_recent(redirects) || !cfg.sticky_ns ||
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
				const struct xf_tcp *tcp, const struct xf_route *route, struct xf_cpu *cpu)
{
	count_edits(&cpu->counters, edit(skb, packet, tcp, route, cfg.df == XF_DF_CLEAR && !gso_size));
}

/* True for a packet of a flow of which something may be under way. */
static __always_inline bool may_go_after(struct __sk_buff *skb, void *end, struct xf_packet *packet,
					 const struct xf_cpu *cpu)
{
	struct xf_tcp tcp = {};

	xf_find_tcp(skb, end, packet, &tcp);
	return cpu->flows & flow_bit(packet, ports_of(end, packet, &tcp));
}

/*
 * Edits what most packets are: IPv4 that fits, with neither tags nor options, and
 * nothing that it might have to go after. As look_closer() does, but the compiler
 * knows where everything is: a third of the instructions. False leaves it to that.
 */
static __always_inline bool fit_straight(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	struct xf_ethernet *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	void *end = (void *)(long)skb->data_end;
	struct xf_packet packet = { .ip = ip, .l3 = sizeof(*eth) };
	struct xf_tcp tcp = {};
	struct xf_route route;

	if ((void *)(ip + 1) > end || eth->proto != bpf_htons(ETH_P_IP) || eth->dest[0] & 1 ||
	    *(__u8 *)ip != PLAIN_IPV4 || !xf_parse_ipv4(end, &packet) || !xf_is_within(&packet, skb->len) ||
	    xf_to_group(&packet) || (anything_queued(cpu) && may_go_after(skb, end, &packet, cpu)) ||
	    in_scope(cpu, &packet, &route) != XF_FITS)
		return false;
	xf_find_tcp(skb, end, &packet, &tcp);
	fit(skb, 0, &packet, &tcp, &route, cpu);
	return true;
}

/*
 * Counts under `reason` what XDP has left unread, and counted as what fits, of
 * packets of which the longest came in a frame of `len` bytes: of merged ones
 * the last may be shorter. When XDP begins to read, a packet on its way to here
 * stays counted as one that fits.
 */
static __always_inline void recount(const struct __sk_buff *skb, enum xf_reason reason, __u32 len,
				    struct xf_cpu *cpu)
{
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1, last = skb->len - (packets - 1) * skb->gso_size;

	if (!leaves_unread())
		return;
	if (len > live.fitting) {
		if (last > live.fitting)
			return;
		packets = 1;
	}
	cpu->counters.reason[XF_FITS] -= packets;
	cpu->counters.reason[reason] += packets;
}

#endif
