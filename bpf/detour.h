/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a packet that may have to go to a worker does. Included by
 * xdpfrag.bpf.c behind `cfg`, `live`, deaf.h, pace.h, under_way.h and order.h.
 */
#ifndef XDPFRAG_DETOUR_H
#define XDPFRAG_DETOUR_H

/*
 * What is known of a packet that may leave the short way. No pointers, so that
 * a global function can take it: the verifier goes through that once, and not
 * with every state of the way to it.
 */
struct xf_detour {
	__u64 now; /* CLOCK_MONOTONIC ns, once it is about to go */
	struct xf_tcp tcp;
	struct xf_order order;
	__u32 l3;
	__u32 ihl;
	__u32 total;
	__u16 frag_off;
	__u16 mtu;
	__u16 mss4;
	__u16 mss6;
	__u16 flags; /* of the route */
	__u8 v6;
	__u8 fragment;
	__u16 reason; /* why it may have to go to a worker: enum xf_reason */
	__u16 leavable; /* see leavable(); and Linux 6.1 wants every byte set */
};

/*
 * False for an oversize packet of which the worker could only make fragments
 * that no receiver can use, see Layout::new in src/packet/fragment.rs: better
 * not redirected at all, for the worker would give it back as it is, and in
 * generic mode it would come here again.
 */
static __always_inline bool fragmentable(struct xdp_md *ctx, const struct xf_detour *packet)
{
	struct xf_options options = {};
	__u32 offset = (packet->frag_off & XF_IP_OFFSET) * 8;

	if (offset + packet->total > 65535)
		return false;
	if (packet->frag_off & XF_IP_MF && (packet->total - packet->ihl) % 8)
		return false;
	if (packet->ihl == sizeof(struct iphdr))
		return true;
	options.len = packet->ihl - sizeof(struct iphdr);
	return !bpf_xdp_load_bytes(ctx, packet->l3 + sizeof(struct iphdr), options.byte,
				   xf_options_len(&options)) &&
	       xf_options_valid(&options);
}

/* XF_OVERSIZE for an oversize packet that is the worker's, else why it is not. */
static __always_inline enum xf_reason oversize(struct xdp_md *ctx, const struct xf_detour *packet, __u32 frame_len)
{
	bool df = packet->v6 || packet->frag_off & XF_IP_DF;
	/* Not to be fragmented: a segment that cannot be resegmented either comes back as it is. */
	bool whole = packet->v6 || (df && cfg.df == XF_DF_KEEP);

	if (whole) {
		/* In generic mode what comes back is seen again, without end. */
		if (!cfg.resegment || !packet->tcp.l4 || packet->fragment || live.generic)
			return packet->v6 ? XF_IPV6_TOO_BIG : XF_DF_KEPT;
	} else if (!fragmentable(ctx, packet)) {
		return XF_MALFORMED;
	}
	if (frame_len > live.max_frame || (whole && frame_len > live.max_whole))
		return XF_TOO_LONG;
	if (df && cfg.window_ns) {
		struct xf_pair pair;

		if (!endpoints(ctx, packet->l3, packet->v6, &pair) || !from_deaf_host(&pair))
			return XF_WARNED;
	}
	return XF_OVERSIZE;
}

/*
 * True for an oversize segment that the program behind GRO can cut (late.bpf.c),
 * alone or merged with others: into two, with nothing signed and no options or
 * extension headers of IP. GRO merges none of the rest either.
 */
static __always_inline bool left_to_gro(struct xdp_md *ctx, const struct xf_detour *packet)
{
	const struct xf_tcp *tcp = &packet->tcp;
	__u32 headers = packet->ihl + tcp->header_len, mtu = packet->mtu;

	return !packet->fragment && tcp->l4 == packet->l3 + packet->ihl &&
	       (packet->v6 || packet->ihl == sizeof(struct iphdr)) &&
	       !(tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG)) &&
	       headers < mtu && mtu - headers <= XF_PIECE_MAX &&
	       packet->total - headers <= 2 * ((mtu - headers) & ~1) && xf_bare_tcp(ctx, tcp);
}

/*
 * True for an oversize packet that never leaves the kernel. Where there are
 * many to fragment a worker has less to do for each, in batches: theirs they
 * are once nothing of their flow is under way, which a worker could overtake.
 */
static __always_inline bool left_behind(struct xdp_md *ctx, const struct xf_detour *packet)
{
	__u64 now;

	if (live.generic || !packet->leavable || packet->l3 > ETH_HLEN + sizeof(struct xf_vlan))
		return false;
	if (packet->tcp.l4 && !packet->fragment)
		return live.late & XF_LEAVE_TCP && left_to_gro(ctx, packet);
	if (!(live.late & XF_LEAVE_DATAGRAMS))
		return false;
	now = bpf_ktime_get_ns();
	if (!busy(now) || !worker_alive(ctx->rx_queue_index, now))
		return true;
	/* Without --sticky nobody keeps an order. */
	return packet->order.pair != XF_NO_SLOT && (is_under_way(slot_of(&packet->order)) ||
						    is_under_way(slot_of_fragments(&packet->order)));
}

/*
 * Decides on a packet that may have to go to a worker. Answers its reason if it
 * goes, XF_FITS if it is to be edited here instead, else why it is passed.
 */
__noinline int decide(struct xdp_md *ctx, struct xf_detour *packet)
{
	__u32 frame_len = bpf_xdp_get_buff_len(ctx);
	enum xf_reason reason;

	if (!packet)
		return XF_FITS;
	reason = packet->reason;
	if (reason == XF_OVERSIZE) {
		reason = oversize(ctx, packet, frame_len);
		if (reason != XF_OVERSIZE)
			return reason;
		if (live.late && left_behind(ctx, packet) && !goes_after(packet->order.pair, packet->order.flow))
			return XF_LATE;
	} else if (reason != XF_UNFINISHED && frame_len > live.max_whole) {
		return XF_FITS;
	}
	packet->now = bpf_ktime_get_ns();
	if (worker_alive(ctx->rx_queue_index, packet->now))
		return reason;
	/* Fail open: what fits does not need the worker. */
	return reason == XF_OVERSIZE || reason == XF_UNFINISHED ? XF_NO_WORKER : XF_FITS;
}

/*
 * True for an oversize packet that the program behind GRO can fragment, or a TCP
 * segment. No datagram whose checksum is left to hardware, which would add it up
 * over a piece. With TCP one segment in 65,536 looks so, and would on its way
 * through a worker overtake those that GRO still holds.
 */
static __always_inline bool leavable(void *end, const struct xf_packet *packet, const struct xf_tcp *tcp, __u32 mtu)
{
	const struct udphdr *udp = (void *)(packet->ip + 1);

	if (tcp->l4 && !packet->fragment)
		return true;
	if (!xf_in_two_fragments(packet, mtu))
		return false;
	if (packet->fragment || packet->ip->protocol != IPPROTO_UDP)
		return true;
	return (void *)(udp + 1) <= end && !xf_unfinished_udp(packet, udp);
}

/* Decides on a packet that may have to go to a worker, for `reason`. */
static __always_inline enum xf_reason consider(struct xdp_md *ctx, void *end, enum xf_reason reason,
					       const struct xf_packet *packet, const struct xf_tcp *tcp,
					       const struct xf_order *order, const struct xf_route *route,
					       struct xf_detour *detour)
{
	*detour = (struct xf_detour){
		.tcp = *tcp,
		.order = *order,
		.l3 = packet->l3,
		.ihl = packet->ihl,
		.total = packet->total,
		.frag_off = packet->frag_off,
		.mtu = route->mtu,
		.mss4 = route->mss4,
		.mss6 = route->mss6,
		.flags = route->flags,
		.v6 = packet->v6,
		.fragment = packet->fragment,
		.reason = reason,
		.leavable = reason == XF_OVERSIZE && leavable(end, packet, tcp, route->mtu),
	};
	return decide(ctx, detour);
}

#endif
