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
#include "cpu.h"

const volatile struct xf_config cfg;

/* In sections of their own, under whose names late.bpf.c has the same maps. */
SEC(".data.live") volatile struct xf_live live = { .lan_mtu = ETH_DATA_LEN };
SEC(".bss.shared") volatile struct xf_shared shared;

#include "deaf.h"
#include "hash.h"
#include "ident.h"
#include "mark.h"
#include "route_cache.h"
#include "scope.h"
#include "lately.h"
#include "edit_frame.h"
#include "edit_whole.h"

/* Sockets by RX queue; the number of entries is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

#include "heartbeat.h"
#include "order.h"
#include "detour.h"

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
			/* What came back whole generic XDP would see again, without end. */
			meta->flags = live.generic ? 0 : detour->flags;
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

/* Decides on one IP packet, and does what is to be done here. */
static __always_inline enum xf_reason handle(struct xdp_md *ctx, void *end, struct xf_packet *packet,
					     struct xf_cpu *cpu, struct xf_detour *detour)
{
	const struct xf_order none = { .pair = XF_NO_SLOT, .flow = XF_NO_SLOT };
	struct xf_order order = none;
	struct xf_tcp tcp = {};
	enum xf_reason reason;
	struct xf_route route;
	bool unfinished;

	reason = in_scope(cpu, packet, &route);
	if (reason != XF_FITS)
		return reason;
	/* Generic XDP sees what GRO has merged. A driver with XDP merges nothing. */
	if (live.generic && packet->total > live.lan_mtu)
		return XF_SUPER_PACKET;

	xf_find_tcp(ctx, end, packet, &tcp);
	if (packet->total > route.mtu)
		reason = XF_OVERSIZE;
	else if (cfg.redirect_all)
		reason = XF_ALL;
	if (cfg.sticky_ns && !cfg.redirect_all && !live.generic && (reason == XF_OVERSIZE || redirected_lately())) {
		order = order_of(packet, hash_of_pair(packet), ports_of(end, packet, &tcp));
		if (reason == XF_FITS && goes_after(order.pair, order.flow))
			reason = XF_STICKY;
	}
	if (reason != XF_FITS) {
		unfinished = reason == XF_OVERSIZE && unfinished_again(cpu, packet, &tcp);
		reason = consider(ctx, reason, packet, &tcp, &order, &route, unfinished, detour);
		if (reason == XF_EDITED)
			count_edits(&cpu->counters, edit_whole(ctx, packet) | edit(ctx, packet, &tcp, &route, false));
		if (reason != XF_FITS)
			return reason;
	}
	/* No other packet of the flow need wait for a SYN. */
	if (unfinished_syn(ctx, packet, &tcp, &route))
		return consider(ctx, XF_UNFINISHED, packet, &tcp, &none, &route, false, detour);
	count_edits(&cpu->counters, edit(ctx, packet, &tcp, &route, cfg.df == XF_DF_CLEAR));
	return XF_FITS;
}

/* A frame in one piece lies whole between data and end, which saves the helper that measures any. */
static __always_inline bool within_frame(struct xdp_md *ctx, void *data, void *end, const struct xf_packet *packet)
{
	__u64 linear = end - data;

	/* Pointers must not be taken apart in 32 bits. */
	barrier_var(linear);
	return xf_is_within(packet, linear) || xf_is_within(packet, bpf_xdp_get_buff_len(ctx));
}

static __always_inline enum xf_reason handle_frame(struct xdp_md *ctx, struct xf_cpu *cpu,
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
		return xf_to_group(&packet) ? XF_GROUP : handle(ctx, end, &packet, cpu, detour);
	}
	if (!xf_parse_ipv6(end, &packet) || !within_frame(ctx, data, end, &packet))
		return XF_MALFORMED;
	return xf_to_group(&packet) ? XF_GROUP : handle(ctx, end, &packet, cpu, detour);
}

/*
 * True for a frame whose length says enough: no worker is needed for it, whatever
 * route it goes by, and none of its flow can be with one. The program behind GRO
 * edits and counts it, for which the kernel has read its headers by then; here
 * they would be waited for.
 */
static __always_inline bool left_unread(struct xdp_md *ctx)
{
	return leaves_unread() && bpf_xdp_get_buff_len(ctx) <= live.fitting;
}

/* True for a frame passed for `reason` that the program behind GRO counts. */
static __always_inline bool counted_behind(struct xdp_md *ctx, enum xf_reason reason)
{
	if (reason == XF_LATE)
		return true;
	if (!(live.late & XF_LEAVE_MARKED) || xf_mark(ctx) || !(live.late & XF_LEAVE_FITTING))
		return false;
	/* The driver has no metadata: what that program takes for its own, it counts. */
	switch (reason) {
	case XF_FITS:
	case XF_EDITED:
	case XF_NOT_IP:
	case XF_GROUP:
	case XF_MALFORMED:
	case XF_OUT_OF_SCOPE:
	case XF_LOCAL:
		return true;
	default:
		return false;
	}
}

SEC("xdp.frags")
int xdpfrag(struct xdp_md *ctx)
{
	struct xf_cpu *cpu = this_cpu();
	struct xf_detour detour;
	__u32 reason;
	int action = XDP_PASS;

	if (!cpu || left_unread(ctx))
		return XDP_PASS;
	reason = handle_frame(ctx, cpu, &detour);
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
	if (reason < XF_REASON_MAX && !(action == XDP_PASS && counted_behind(ctx, reason)))
		cpu->counters.reason[reason]++;
	return action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
