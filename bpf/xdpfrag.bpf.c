// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * LAN ingress. Per IP packet to a prefix in scope: one that fits the SA MTU is
 * edited in place (DF, MSS) and passed; an oversize one that a worker can make
 * fit, and the flow it belongs to for a while, goes to the AF_XDP socket of its
 * RX queue. All else is passed untouched. Every frame is counted under one
 * reason.
 *
 * Needs Linux 5.18 (xdp.frags, bpf_xdp_load_bytes).
 *
 * In generic mode the program sees frames that were handed back once more:
 * they fit and are edited already, so that it does nothing to them. There is
 * no stickiness there, and user space refuses redirect_all.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define XF_CTX struct xdp_md
#define xf_load bpf_xdp_load_bytes

#include "intf.h"
#include "parse.h"
#include "routes.h"

const volatile struct xf_config cfg;

volatile struct xf_live live = { .lan_mtu = ETH_DATA_LEN };
volatile struct xf_shared shared;

#include "deaf.h"
#include "hash.h"
#include "pace.h"
#include "under_way.h"
#include "route_cache.h"
#include "edit.h"

/* Sockets by RX queue; the number of entries is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

#include "heartbeat.h"
#include "order.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_counters);
} counters SEC(".maps");

/* fe80::/10 never leaves its link (RFC 4291 section 2.5.6), hence is in no tunnel. */
static __always_inline bool link_local(const struct xf_packet *packet)
{
	return packet->v6 && (packet->ip6->daddr.s6_addr16[0] & bpf_htons(0xffc0)) == bpf_htons(0xfe80);
}

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
	__u8 v6;
	__u8 fragment;
	__u16 reason; /* why it may have to go to a worker: enum xf_reason */
	__u32 leavable; /* see leavable(); and Linux 6.1 wants every byte set */
};

/*
 * Sends the frame to the worker of its queue; false if it is as it was, to be
 * passed. A driver without metadata makes the worker do without: it looks for
 * the magic.
 */
static __always_inline bool redirect(struct xdp_md *ctx, const struct xf_detour *detour)
{
	bool added;

	note_order(detour->order.pair, detour->order.flow, detour->now, ctx->rx_queue_index);
	added = !bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct xf_meta));
	if (added) {
		struct xf_meta *meta = (void *)(long)ctx->data_meta;

		if ((void *)(meta + 1) <= (void *)(long)ctx->data) {
			meta->rx_ns = detour->now;
			meta->mtu = detour->mtu;
			meta->mss4 = detour->mss4;
			meta->mss6 = detour->mss6;
			meta->magic = XF_META_MAGIC;
		}
	}
	if (bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS) == XDP_REDIRECT)
		return true;
	/* The socket left a moment ago. */
	if (added)
		bpf_xdp_adjust_meta(ctx, sizeof(struct xf_meta));
	return false;
}

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
	return packet->order.pair != XF_NO_SLOT && (is_under_way(slot_of(&packet->order), now) ||
						    is_under_way(slot_of_fragments(&packet->order), now));
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
		.v6 = packet->v6,
		.fragment = packet->fragment,
		.reason = reason,
		.leavable = reason == XF_OVERSIZE && leavable(end, packet, tcp, route->mtu),
	};
	return decide(ctx, detour);
}

/* Decides on one IP packet, and does what is to be done here. */
static __always_inline enum xf_reason handle(struct xdp_md *ctx, void *end, struct xf_packet *packet,
					     struct xf_counters *count, struct xf_detour *detour)
{
	const struct xf_order none = { .pair = XF_NO_SLOT, .flow = XF_NO_SLOT };
	struct xf_order order = none;
	enum xf_reason reason = XF_FITS;
	struct xf_tcp tcp = {};
	struct xf_route route;

	if (!route_of(packet, &route) || route.flags & XF_ROUTE_PASS)
		return XF_OUT_OF_SCOPE;
	if (route.flags & XF_ROUTE_LOCAL)
		return XF_LOCAL;
	if (link_local(packet))
		return XF_OUT_OF_SCOPE;
	if (packet->total > live.lan_mtu)
		return XF_SUPER_PACKET;

	xf_find_tcp(ctx, end, packet, &tcp);
	if (packet->total > route.mtu)
		reason = XF_OVERSIZE;
	else if (cfg.redirect_all)
		reason = XF_ALL;
	if (cfg.sticky_ns && !cfg.redirect_all && !live.generic && (reason == XF_OVERSIZE || redirected_lately())) {
		order = order_of(end, packet, &tcp, hash_of_pair(packet));
		if (reason == XF_FITS && goes_after(order.pair, order.flow))
			reason = XF_STICKY;
	}
	if (reason != XF_FITS) {
		reason = consider(ctx, end, reason, packet, &tcp, &order, &route, detour);
		if (reason != XF_FITS)
			return reason;
	}
	reason = edit(ctx, packet, &tcp, &route, count);
	/* No other packet of the flow need wait for a SYN. */
	return reason == XF_FITS ? reason : consider(ctx, end, reason, packet, &tcp, &none, &route, detour);
}

/* A frame in one piece lies whole between data and end, which saves the helper that measures any. */
static __always_inline bool within_frame(struct xdp_md *ctx, void *data, void *end, const struct xf_packet *packet)
{
	__u64 linear = end - data;

	/* Pointers must not be taken apart in 32 bits. */
	barrier_var(linear);
	return xf_is_within(packet, linear) || xf_is_within(packet, bpf_xdp_get_buff_len(ctx));
}

static __always_inline enum xf_reason handle_frame(struct xdp_md *ctx, struct xf_counters *count,
						   struct xf_detour *detour)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct xf_packet packet;
	enum xf_reason reason = xf_parse_link(data, end, &packet);

	if (reason != XF_FITS)
		return reason;
	/* The compiler makes two of what follows, so that neither family pays for the other. */
	if (!packet.v6) {
		if (!xf_parse_ipv4(end, &packet) || !within_frame(ctx, data, end, &packet))
			return XF_MALFORMED;
		return xf_to_group(&packet) ? XF_GROUP : handle(ctx, end, &packet, count, detour);
	}
	if (!xf_parse_ipv6(end, &packet) || !within_frame(ctx, data, end, &packet))
		return XF_MALFORMED;
	return xf_to_group(&packet) ? XF_GROUP : handle(ctx, end, &packet, count, detour);
}

SEC("xdp.frags")
int xdpfrag(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct xf_counters *count = bpf_map_lookup_elem(&counters, &zero);
	struct xf_detour detour;
	__u32 reason;
	int action = XDP_PASS;

	if (!count)
		return XDP_PASS;
	reason = handle_frame(ctx, count, &detour);
	switch (reason) {
	case XF_OVERSIZE:
	case XF_STICKY:
	case XF_ALL:
	case XF_UNFINISHED:
		if (redirect(ctx, &detour))
			action = XDP_REDIRECT;
		else
			reason = XF_NO_WORKER;
	}
	/* The compiler knows it from the switch, the verifier of 6.1 does not. */
	barrier_var(reason);
	if (reason < XF_REASON_MAX)
		count->reason[reason]++;
	return action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
