/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What needs no worker, and XDP has left unread, see left_unread() in
 * xdpfrag.bpf.c. Included by late.bpf.c after `cfg`, late_queue.h and edit_whole.h.
 */
#ifndef XDPFRAG_LATE_FIT_H
#define XDPFRAG_LATE_FIT_H

#define PLAIN_IPV4 0x45 /* first byte: version 4, and a header of 5 words, which has no options */

/* Bytes of the longest of the packets that GRO has merged; of one that stayed alone, for which gso_size is 0. */
static __always_inline __u32 longest(__u32 gso_size, const struct xf_packet *packet, const struct xf_tcp *tcp)
{
	__u32 header = tcp->l4 ? tcp->header_len : sizeof(struct udphdr);

	return gso_size ? packet->ihl + header + gso_size : packet->total;
}

/* How many packets GRO has merged. Not to be asked once gso_size was lowered, which makes it unknown. */
static __always_inline __u32 packets_of(const struct __sk_buff *skb)
{
	__u32 packets = skb->gso_segs;

	return packets ? packets : 1;
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

/* True for an oversize packet that XDP leaves unread, for this program to edit. */
static __always_inline bool goes_on_whole(const struct xf_packet *packet, const struct xf_route *route)
{
	return cfg.leave & XF_LEAVE_OVERSIZE && !packet->v6 && way_of(packet, route) == XF_WAY_EDIT;
}

/* Has the kernel fragment an oversize packet where it leaves: nothing in front of that sees a piece of it. */
static __always_inline void leave_whole(struct __sk_buff *skb, const struct xf_packet *packet,
					const struct xf_tcp *tcp, const struct xf_route *route, struct xf_cpu *cpu)
{
	count_edits(&cpu->counters, edit_whole(skb, packet) | edit(skb, packet, tcp, route, false));
	cpu->counters.reason[XF_EDITED]++;
}

/*
 * The same for datagrams that GRO has merged, as it does from the moment on in
 * which somebody switches rx-udp-gro-forwarding on: until user space has XDP edit
 * them before. The kernel cuts them apart and counts their identifications on
 * from the first (inet_gso_segment()). Where GRO has listed them (rx-gro-list)
 * each keeps its own header, which cannot be had from here: false. The two are
 * told apart by the checksum, which only what is merged has unfinished.
 */
static __always_inline bool leave_merged(struct __sk_buff *skb, const struct xf_packet *packet, struct xf_cpu *cpu)
{
	struct iphdr *ip = packet->ip;
	__u32 packets = skb->gso_segs;
	__sum16 check;
	__be16 id;

	if (ip->protocol != IPPROTO_UDP || packet->fragment || packet->ihl != sizeof(*ip) ||
	    bpf_skb_load_bytes(skb, packet->l3 + sizeof(*ip) + offsetof(struct udphdr, check), &check, sizeof(check)) ||
	    !xf_unfinished(packet, IPPROTO_UDP, packet->total - sizeof(*ip), check))
		return false;
	if (!(packet->frag_off & XF_IP_DF))
		return true;
	if (!next_idents(hash_of_pair(packet), packets, &id))
		return false;
	write_without_df(skb, packet, id);
	cpu->counters.edit[XF_EDIT_DF] += packets;
	cpu->counters.edit[XF_EDIT_ID] += packets;
	return true;
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
 * Edits what most packets are: IPv4 with neither tags nor options that fits, or is
 * no TCP, and nothing that it might have to go after. As look_closer() does, but
 * the compiler knows where everything is: a third of the instructions. False
 * leaves it to that.
 */
static __always_inline bool fit_straight(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	struct xf_ethernet *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	void *end = (void *)(long)skb->data_end;
	struct xf_packet packet = { .ip = ip, .l3 = sizeof(*eth) };
	struct xf_tcp tcp = {};
	struct xf_route route;

	if (!(cfg.leave & XF_LEAVE_FITTING) || skb->gso_size || (void *)(ip + 1) > end ||
	    eth->proto != bpf_htons(ETH_P_IP) || eth->dest[0] & 1 || *(__u8 *)ip != PLAIN_IPV4 ||
	    !xf_parse_ipv4(end, &packet) || !xf_is_within(&packet, skb->len) || xf_to_group(&packet) ||
	    (anything_queued(cpu) && may_go_after(skb, end, &packet, cpu)) ||
	    in_scope(cpu, &packet, &route) != XF_FITS)
		return false;
	if (packet.total > route.mtu) {
		if (ip->protocol == IPPROTO_TCP || !goes_on_whole(&packet, &route))
			return false;
		leave_whole(skb, &packet, &tcp, &route, cpu);
		return true;
	}
	xf_find_tcp(skb, end, &packet, &tcp);
	fit(skb, 0, &packet, &tcp, &route, cpu);
	cpu->counters.reason[XF_FITS]++;
	return true;
}

#endif
