/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a packet that may have to go to a worker does. Included by
 * xdpfrag.bpf.c after `cfg`, `live`, deaf.h, scope.h and order.h.
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
	__u8 way;     /* of an oversize IPv4 packet: enum xf_way. Linux 6.1 wants every byte set */
	__u8 unfinished; /* see unfinished_again() */
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

/* True for an oversize packet that may be cut into segments: where it cannot be, a worker has it go by its way. */
static __always_inline bool resegmented(const struct xf_detour *packet)
{
	return cfg.resegment && packet->tcp.l4 && !packet->fragment;
}

/* XF_OVERSIZE for an oversize packet that is the worker's, XF_EDITED for one to be edited here, else why it is neither. */
static __always_inline enum xf_reason oversize(struct xdp_md *ctx, const struct xf_detour *packet, __u32 frame_len)
{
	bool df = packet->v6 || packet->frag_off & XF_IP_DF;
	/* Not to be fragmented: a segment that cannot be resegmented either comes back as it is. */
	bool whole = packet->v6 || (df && cfg.df == XF_DF_KEEP);
	/* Cut into segments, if a worker can have it. */
	bool too_long = frame_len > live.max_frame || frame_len > live.max_whole;
	bool edited = !whole && packet->way == XF_WAY_EDIT && (!resegmented(packet) || too_long);

	if (whole) {
		/* In generic mode what comes back is seen again, without end. */
		if (!resegmented(packet) || live.generic)
			return packet->v6 ? XF_IPV6_TOO_BIG : XF_DF_KEPT;
	} else if (!resegmented(packet) && packet->way == XF_WAY_PASS) {
		return XF_KEPT_WHOLE;
	} else if (!edited && !fragmentable(ctx, packet)) {
		return XF_MALFORMED;
	}
	/* Rather here than nowhere, if it is longer than a worker can hand back. */
	edited = edited && ((live.late & XF_LEAVE_WHOLE && !cfg.redirect_all) || too_long);
	if (!edited && (frame_len > live.max_frame ||
			((whole || packet->way == XF_WAY_EDIT) && frame_len > live.max_whole)))
		return live.max_frame ? XF_TOO_LONG : XF_NO_WORKER;
	if (df && cfg.window_ns) {
		struct xf_pair pair;

		if (!endpoints(ctx, packet->l3, packet->v6, &pair) || !from_deaf_host(&pair))
			return XF_WARNED;
	}
	return edited ? XF_EDITED : XF_OVERSIZE;
}

/*
 * True for an oversize segment that the program behind GRO can cut (late.bpf.c),
 * alone or merged with others: into two, with nothing signed and no options or
 * extension headers of IP. GRO merges none of the rest either. Cut there, an
 * unfinished checksum would be finished once too often or not at all, for the
 * program cannot tell which the kernel takes it for; a worker finishes it.
 */
static __always_inline bool left_to_gro(struct xdp_md *ctx, const struct xf_detour *packet)
{
	const struct xf_tcp *tcp = &packet->tcp;
	__u32 headers = packet->ihl + tcp->header_len, mtu = packet->mtu;

	return live.late & XF_LEAVE_TCP && !live.generic && !packet->unfinished && packet->l3 <= ETH_HLEN + sizeof(struct xf_vlan) &&
	       tcp->l4 && !packet->fragment && tcp->l4 == packet->l3 + packet->ihl &&
	       (packet->v6 || packet->ihl == sizeof(struct iphdr)) &&
	       !(tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG)) &&
	       headers < mtu && mtu - headers <= XF_PIECE_MAX &&
	       packet->total - headers <= 2 * ((mtu - headers) & ~1) && xf_bare_tcp(ctx, tcp);
}

/*
 * Decides on a packet that may have to go to a worker. Answers its reason if it
 * goes, XF_FITS or XF_EDITED if it is to be edited here instead, else why it is
 * passed.
 */
__noinline int decide(struct xdp_md *ctx, struct xf_detour *packet)
{
	__u32 frame_len = bpf_xdp_get_buff_len(ctx);
	enum xf_reason reason, here = XF_FITS;

	if (!packet)
		return XF_FITS;
	reason = packet->reason;
	if (reason == XF_OVERSIZE) {
		reason = oversize(ctx, packet, frame_len);
		if (reason != XF_OVERSIZE && reason != XF_EDITED)
			return reason;
		here = reason == XF_EDITED ? XF_EDITED : left_to_gro(ctx, packet) ? XF_LATE : XF_NO_WORKER;
		if (here != XF_NO_WORKER &&
		    !(redirected_lately() && goes_after(packet->order.pair, packet->order.flow)))
			return here;
		if (here == XF_EDITED && frame_len > live.max_whole)
			return XF_EDITED;
		reason = XF_OVERSIZE;
	} else if (reason == XF_UNFINISHED) {
		here = XF_NO_WORKER;
	} else if (frame_len > live.max_whole) {
		return XF_FITS;
	}
	packet->now = bpf_ktime_get_ns();
	/* Fail open: what the kernel can have as it is, or edited here, does not need the worker. */
	return worker_alive(ctx->rx_queue_index, packet->now) ? reason : here;
}

/*
 * True for an oversize segment that looks as if its checksum were left to hardware,
 * as the one before it of its host did on this CPU. One in 65,536 looks so by
 * chance, and would on its way through a worker overtake what GRO still holds.
 */
static __always_inline bool unfinished_again(struct xf_cpu *cpu, const struct xf_packet *packet,
					     const struct xf_tcp *tcp)
{
	__u64 host = 1ull << 32 | (packet->v6 ? packet->ip6->saddr.s6_addr32[3] : packet->ip->saddr);
	bool again = cpu->unfinished == host;

	if (!tcp->l4 || packet->fragment || !(live.late & XF_LEAVE_TCP))
		return false;
	if (xf_unfinished(packet, IPPROTO_TCP, tcp->len, tcp->check)) {
		cpu->unfinished = host;
		return again;
	}
	if (again)
		cpu->unfinished = 0;
	return false;
}

/* Decides on a packet that may have to go to a worker, for `reason`. */
static __always_inline enum xf_reason consider(struct xdp_md *ctx, enum xf_reason reason,
					       const struct xf_packet *packet, const struct xf_tcp *tcp,
					       const struct xf_order *order, const struct xf_route *route,
					       bool unfinished, struct xf_detour *detour)
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
		.way = packet->v6 ? XF_WAY_FRAGMENTS : way_of(packet, route),
		.unfinished = unfinished,
	};
	return decide(ctx, detour);
}

#endif
