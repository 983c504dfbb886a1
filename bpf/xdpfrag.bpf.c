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

#include "deaf.h"
#include "order.h"
#include "pace.h"
#include "under_way.h"

volatile struct xf_live live = { .lan_mtu = ETH_DATA_LEN };

/* Sockets by RX queue; the number of entries is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

#include "heartbeat.h"

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
 * Sends the frame to the worker of its queue. Answers `reason`, or
 * XF_NO_WORKER for a frame that is as it was, to be passed. A driver without
 * metadata makes the worker do without: it looks for the magic.
 */
static __always_inline enum xf_reason redirect(struct xdp_md *ctx, __u64 now, const struct xf_route *route,
					       enum xf_reason reason)
{
	__u32 queue = ctx->rx_queue_index;
	bool added = !bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct xf_meta));

	if (added) {
		struct xf_meta *meta = (void *)(long)ctx->data_meta;

		if ((void *)(meta + 1) <= (void *)(long)ctx->data) {
			meta->rx_ns = now;
			meta->mtu = route->mtu;
			meta->mss4 = route->mss4;
			meta->mss6 = route->mss6;
			meta->magic = XF_META_MAGIC;
		}
	}
	if (bpf_redirect_map(&xsks, queue, XDP_PASS) == XDP_REDIRECT)
		return reason;
	/* The socket left a moment ago. */
	if (added)
		bpf_xdp_adjust_meta(ctx, sizeof(struct xf_meta));
	return XF_NO_WORKER;
}

static __always_inline void clear_df(struct iphdr *ip)
{
	__be16 old = ip->frag_off;

	ip->frag_off = old & ~bpf_htons(XF_IP_DF);
	ip->check = xf_csum_update(ip->check, (__u16)~old + ip->frag_off);
}

/* Edits a packet that fits: all that can fail happens before the first byte is changed. */
static __always_inline enum xf_reason edit(struct xdp_md *ctx, const struct xf_packet *packet,
					   const struct xf_tcp *tcp, const struct xf_route *route,
					   struct xf_counters *count)
{
	__u16 mss = packet->v6 ? route->mss6 : route->mss4;
	struct xf_options options = { .len = tcp->options_len };
	__u32 at = tcp->l4 + sizeof(struct tcphdr), delta = 0;

	if (mss && options.len && !bpf_xdp_load_bytes(ctx, at, options.byte, xf_options_len(&options)))
		delta = xf_clamp_mss(&options, mss);
	if (delta && !packet->fragment && xf_unfinished(packet, IPPROTO_TCP, tcp->len, tcp->check)) {
		__u64 now = bpf_ktime_get_ns();

		if (!worker_alive(ctx->rx_queue_index, now))
			return XF_NO_WORKER;
		return redirect(ctx, now, route, XF_UNFINISHED);
	}
	if (!packet->v6 && cfg.df == XF_DF_CLEAR && packet->frag_off & XF_IP_DF) {
		clear_df(packet->ip);
		count->edit[XF_EDIT_DF]++;
	}
	if (delta) {
		__sum16 check = xf_csum_update(tcp->check, delta);

		bpf_xdp_store_bytes(ctx, at, options.byte, xf_options_len(&options));
		bpf_xdp_store_bytes(ctx, tcp->l4 + offsetof(struct tcphdr, check), &check, sizeof(check));
		count->edit[XF_EDIT_MSS]++;
	}
	return XF_FITS;
}

/*
 * False for an oversize packet of which the worker could only make fragments
 * that no receiver can use, see Layout::new in src/packet/fragment.rs: better
 * not redirected at all, for the worker would give it back as it is, and in
 * generic mode it would come here again.
 */
static __always_inline bool fragmentable(struct xdp_md *ctx, const struct xf_packet *packet)
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
static __always_inline enum xf_reason oversize(struct xdp_md *ctx, const struct xf_packet *packet,
					       const struct xf_tcp *tcp, __u32 frame_len)
{
	bool df = packet->v6 || packet->frag_off & XF_IP_DF;
	/* Not to be fragmented: a segment that cannot be resegmented either comes back as it is. */
	bool whole = packet->v6 || (df && cfg.df == XF_DF_KEEP);

	if (whole) {
		/* In generic mode what comes back is seen again, without end. */
		if (!cfg.resegment || !tcp->l4 || packet->fragment || live.generic)
			return packet->v6 ? XF_IPV6_TOO_BIG : XF_DF_KEPT;
	} else if (!fragmentable(ctx, packet)) {
		return XF_MALFORMED;
	}
	if (frame_len > live.max_frame || (whole && frame_len > live.max_whole))
		return XF_TOO_LONG;
	if (df && cfg.window_ns) {
		struct xf_pair pair;

		endpoints(packet, &pair);
		if (!from_deaf_host(&pair))
			return XF_WARNED;
	}
	return XF_OVERSIZE;
}

/*
 * True for an oversize segment that the program behind GRO can cut (late.bpf.c),
 * alone or merged with others: into two, with nothing signed and no options or
 * extension headers of IP. GRO merges none of the rest either.
 */
static __always_inline bool left_to_gro(struct xdp_md *ctx, const struct xf_packet *packet, const struct xf_tcp *tcp,
					__u32 mtu)
{
	__u32 headers = packet->ihl + tcp->header_len;

	return !packet->fragment && tcp->l4 == packet->l3 + packet->ihl &&
	       (packet->v6 || packet->ihl == sizeof(struct iphdr)) &&
	       !(tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG)) &&
	       headers < mtu && packet->total - headers <= 2 * ((mtu - headers) & ~1) && xf_bare_tcp(ctx, tcp);
}

/* True for an oversize packet that the program behind GRO can fragment. */
static __always_inline bool left_to_fragment(void *end, const struct xf_packet *packet, __u32 mtu)
{
	const struct udphdr *udp = (void *)(packet->ip + 1);

	if (!xf_in_two_fragments(packet, mtu))
		return false;
	if (packet->fragment || packet->ip->protocol != IPPROTO_UDP)
		return true;
	return (void *)(udp + 1) <= end && !xf_unfinished_udp(packet, udp);
}

/*
 * True for an oversize packet that never leaves the kernel. Where there are
 * many to fragment a worker has less to do for each, in batches: theirs they
 * are once nothing of their hosts is under way, which a worker could overtake.
 */
static __always_inline bool left_behind(struct xdp_md *ctx, void *end, const struct xf_packet *packet,
					const struct xf_tcp *tcp, __u32 mtu)
{
	__u64 now;
	__u32 slot;

	if (live.generic || packet->l3 > ETH_HLEN + sizeof(struct xf_vlan))
		return false;
	if (live.late & XF_LEAVE_TCP && tcp->l4)
		return left_to_gro(ctx, packet, tcp, mtu);
	if (!(live.late & XF_LEAVE_DATAGRAMS) || !left_to_fragment(end, packet, mtu))
		return false;
	now = bpf_ktime_get_ns();
	if (!busy(now) || !worker_alive(ctx->rx_queue_index, now))
		return true;
	slot = slot_of_pair(hash_of_pair(packet));
	return is_under_way(bpf_map_lookup_elem(&under_way, &slot), now);
}

/* Decides on one packet, and does it. */
static __always_inline enum xf_reason handle(struct xdp_md *ctx, void *end, __u32 frame_len,
					     struct xf_packet *packet, struct xf_counters *count)
{
	struct xf_route *route = xf_route_of(packet);
	enum xf_reason reason = XF_FITS;
	struct xf_order order = {};
	struct xf_tcp tcp = {};

	if (!route || route->flags & XF_ROUTE_PASS)
		return XF_OUT_OF_SCOPE;
	if (route->flags & XF_ROUTE_LOCAL)
		return XF_LOCAL;
	if (link_local(packet))
		return XF_OUT_OF_SCOPE;
	if (packet->total > live.lan_mtu)
		return XF_SUPER_PACKET;

	xf_find_tcp(ctx, end, packet, &tcp);
	if (packet->total > route->mtu) {
		reason = oversize(ctx, packet, &tcp, frame_len);
		if (reason != XF_OVERSIZE)
			return reason;
	}
	if (cfg.sticky_ns && !cfg.redirect_all && !live.generic)
		order = order_of(end, packet, &tcp);
	if (reason == XF_FITS && cfg.redirect_all)
		reason = XF_ALL;
	else if (reason == XF_FITS && goes_after(&order))
		reason = XF_STICKY;
	else if (reason == XF_OVERSIZE && live.late && !goes_after(&order) &&
		 left_behind(ctx, end, packet, &tcp, route->mtu))
		return XF_LATE;

	if (reason == XF_OVERSIZE || (reason != XF_FITS && frame_len <= live.max_whole)) {
		__u64 now = bpf_ktime_get_ns();

		if (worker_alive(ctx->rx_queue_index, now)) {
			note_order(&order, now);
			return redirect(ctx, now, route, reason);
		}
		if (reason == XF_OVERSIZE)
			return XF_NO_WORKER;
		/* Fail open: what fits does not need the worker. */
	}
	return edit(ctx, packet, &tcp, route, count);
}

static __always_inline enum xf_reason handle_frame(struct xdp_md *ctx, struct xf_counters *count)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 frame_len = bpf_xdp_get_buff_len(ctx);
	struct xf_packet packet;
	enum xf_reason reason = xf_parse_link(data, end, &packet);

	if (reason != XF_FITS)
		return reason;
	/* The compiler makes two of what follows, so that neither family pays for the other. */
	if (!packet.v6) {
		reason = xf_parse_ipv4(end, frame_len, &packet);
		return reason == XF_FITS ? handle(ctx, end, frame_len, &packet, count) : reason;
	}
	reason = xf_parse_ipv6(end, frame_len, &packet);
	return reason == XF_FITS ? handle(ctx, end, frame_len, &packet, count) : reason;
}

SEC("xdp.frags")
int xdpfrag(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct xf_counters *count = bpf_map_lookup_elem(&counters, &zero);
	__u32 reason;

	if (!count)
		return XDP_PASS;
	reason = handle_frame(ctx, count);
	if (reason < XF_REASON_MAX)
		count->reason[reason]++;
	switch (reason) {
	case XF_OVERSIZE:
	case XF_STICKY:
	case XF_ALL:
	case XF_UNFINISHED:
		return XDP_REDIRECT;
	default:
		return XDP_PASS;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
