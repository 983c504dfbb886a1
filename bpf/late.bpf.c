// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * LAN ingress behind GRO: what needs no worker. A packet that XDP has passed
 * unread is edited and counted here:
 *
 * - What fits: DF and MSS, where the headers are at hand.
 * - What goes by XF_WAY_EDIT: DF off, a fresh identification.
 * - TCP (--tcp resegment): GRO has merged the segments of one flow that came in
 *   one batch. gso_size of what is merged is lowered, so that the kernel cuts it
 *   to the SA MTU where it sends it (tcp_gso_segment(); XFRM before it
 *   encrypts). A segment that stayed alone is cut in two.
 *
 * Needs tcx (Linux 6.6). src/xdp/late.rs fills in struct late_config.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "skb.h"
#include "routes.h"
#include "deaf_hosts.h"

const volatile struct late_config {
	__u64 flow_seed;  /* keys the hash of hosts and protocol */
	__u64 token;	  /* in skb->cb of what comes back: random, because GRO leaves its own bytes there */
	__u32 df;	  /* as of struct xf_config */
	__u32 ifindex;	  /* the LAN interface */
	__u32 leave;	  /* XF_LEAVE_*: what this program does */
	__u32 deaf_only;  /* --force deaf */
	__u32 ident_bits; /* --id-partition: identifications are counted above these bits, */
	__u32 ident_part; /* which hold this */
} cfg;

/* That of the XDP program. */
SEC(".bss.shared") volatile struct xf_shared shared;

#include "cpu.h" /* its map is that of the XDP program */
#include "route_cache.h"
#include "scope.h"
#include "edit.h"
#include "hash.h"
#include "ident.h"
#include "edit_whole.h"
#include "mark.h"
#include "under_way.h"

/* Where a packet belongs. */
struct place {
	__u64 flow; /* its bit in xf_cpu.flows */
	__u32 slot; /* in `under_way` */
};

/* Of what makes a packet fit: it has, and the packet goes on in its place; or it has not. */
#define GOES_ON	   (-2)
#define LEFT_ALONE (-3)

#include "late_queue.h"
#include "late_segment.h"
#include "late_fit.h"

/*
 * Grown, a GSO packet has its gso_size lowered by as much (bpf_skb_net_grow());
 * shrunk again with FIXED_GSO it keeps that. Both at the MAC header, so that no
 * byte of the packet has changed in the end. One step changes 4095 at most, and
 * four are enough for the longest frame of a LAN.
 */
static __always_inline int lower(struct __sk_buff *skb, __u32 share, struct xf_cpu *cpu)
{
	if (skb->gso_size <= share)
		return GOES_ON;
	if (skb->gso_size - share > 4 * 0xfff) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	for (int i = 0; i < 4; i++) {
		__u32 size = skb->gso_size, step = size - share;

		if (size <= share)
			break;
		if (step > 0xfff)
			step = 0xfff;
		if (bpf_skb_adjust_room(skb, step, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET)) {
			/* Some kernels fail when it has grown already. */
			if (i || skb->gso_size != size) {
				cpu->late[XF_LATE_LOST]++;
				return TC_ACT_SHOT;
			}
			cpu->late[XF_LATE_REFUSED]++;
			return LEFT_ALONE;
		}
		if (bpf_skb_adjust_room(skb, -(__s32)step, BPF_ADJ_ROOM_MAC,
					BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO)) {
			cpu->late[XF_LATE_LOST]++;
			return TC_ACT_SHOT;
		}
	}
	cpu->late[XF_LATE_LOWERED]++;
	return GOES_ON;
}

/* False under --force deaf for a host that the kernel is to answer. */
static __always_inline bool served(const struct xf_packet *packet)
{
	struct xf_address source = {};

	if (!cfg.deaf_only)
		return true;
	if (packet->v6) {
		__builtin_memcpy(&source, &packet->ip6->saddr, sizeof(source));
	} else {
		source.byte[10] = source.byte[11] = 0xff;
		__builtin_memcpy(&source.byte[12], &packet->ip->saddr, 4);
	}
	return bpf_map_lookup_elem(&deaf, &source);
}

/* Oversize TCP: the conditions are those of left_to_gro() in detour.h. */
static __always_inline int oversize_tcp(struct __sk_buff *skb, const struct xf_packet *packet,
					const struct xf_tcp *tcp, __u32 mtu, const struct place *place,
					struct xf_cpu *cpu)
{
	struct segment segment = {
		.l3 = packet->l3,
		.l4 = tcp->l4,
		.v6 = packet->v6,
		.place = *place,
		.addresses = xf_sum_of_addresses(packet, IPPROTO_TCP),
	};
	__u32 headers = packet->ihl + tcp->header_len, share;

	if (packet->fragment || tcp->l4 != packet->l3 + packet->ihl || mtu <= headers ||
	    tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG) || !served(packet) || !xf_bare_tcp(skb, tcp))
		return LEFT_ALONE;
	share = (mtu - headers) & ~1;
	if (skb->gso_size)
		return lower(skb, share, cpu);

	segment.data = tcp->l4 + tcp->header_len;
	segment.len = packet->total - headers;
	segment.share = share;
	return cut_in_two(skb, &segment);
}

/* Finds the IPv4 header again after a helper has made pointers void; false if it is not all there. */
static __always_inline bool found_again(struct __sk_buff *skb, struct xf_packet *packet)
{
	packet->ip = (void *)(long)skb->data + packet->l3;
	return (void *)(packet->ip + 1) <= (void *)(long)skb->data_end;
}

/*
 * Makes an oversize packet fit, or leaves it as XDP would have: unread comes here
 * only what needs no worker.
 */
static __always_inline int oversize(struct __sk_buff *skb, struct xf_packet *packet, const struct xf_tcp *tcp,
				    const struct xf_route *route, const struct place *place, struct xf_cpu *cpu)
{
	bool whole = goes_on_whole(packet, route), left = false;
	__u32 packets = packets_of(skb);
	int action;

	if (cfg.leave & XF_LEAVE_TCP && tcp->l4 && !packet->fragment) {
		action = oversize_tcp(skb, packet, tcp, route->mtu, place, cpu);
		if (action != LEFT_ALONE) {
			cpu->counters.reason[XF_LATE] += packets;
			return action;
		}
		left = true;
	}
	/* XDP has counted the rest. */
	if (!(cfg.leave & XF_LEAVE_FITTING) && !left)
		return GOES_ON;
	if (packet->v6)
		cpu->counters.reason[XF_IPV6_TOO_BIG] += packets;
	else if (skb->gso_size && whole && found_again(skb, packet) && leave_merged(skb, packet, cpu))
		cpu->counters.reason[XF_EDITED] += packets;
	else if (skb->gso_size)
		cpu->counters.reason[XF_SUPER_PACKET] += packets;
	else if (whole && found_again(skb, packet))
		leave_whole(skb, packet, tcp, route, cpu);
	else
		cpu->counters.reason[left ? XF_KEPT_CHECKSUM : XF_NO_WORKER]++;
	return GOES_ON;
}

/* Whatever fit_straight() is not for. A function by itself, so that that one need not share registers with it. */
static __noinline int look_closer(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	bool unread = !xf_is_marked(skb), edits = unread && cfg.leave & XF_LEAVE_FITTING;
	bool after = anything_queued(cpu), fits;
	__u32 gso_size = skb->gso_size, ports;
	struct xf_packet packet;
	enum xf_reason reason;
	struct xf_tcp tcp = {};
	struct xf_route route;
	struct place place = {};
	void *data, *end;
	int action;

	if (!pull_headers(skb))
		return TC_ACT_UNSPEC;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	reason = xf_parse(data, end, skb->len, &packet);
	if (reason == XF_FITS) {
		xf_find_tcp(skb, end, &packet, &tcp);
		reason = in_scope(cpu, &packet, &route);
	}
	if (reason != XF_FITS) {
		if (edits)
			cpu->counters.reason[reason] += packets_of(skb);
		return TC_ACT_UNSPEC;
	}
	fits = longest(gso_size, &packet, &tcp) <= route.mtu;
	if (after || !fits) {
		ports = ports_of(end, &packet, &tcp);
		place.flow = flow_bit(&packet, ports);
		after = after && cpu->flows & place.flow;
	}
	if (after || !fits) {
		place.slot = flow_slot(hash_of_pair(&packet), ports);
		after = after && is_under_way(place.slot);
	}
	if (fits) {
		if (edits) {
			cpu->counters.reason[XF_FITS] += packets_of(skb);
			fit(skb, gso_size, &packet, &tcp, &route, cpu);
		}
	} else if (unread) {
		action = oversize(skb, &packet, &tcp, &route, &place, cpu);
		if (action != GOES_ON)
			return action;
	}
	if (!after)
		return TC_ACT_UNSPEC;
	cpu->late[XF_LATE_FOLLOWED]++;
	return queue(skb, &place, cpu);
}

SEC("tc")
int xdpfrag_late(struct __sk_buff *skb)
{
	struct xf_cpu *cpu = this_cpu();

	if (!cpu)
		return TC_ACT_UNSPEC;
	if (has_token(skb)) {
		note_return(skb, cpu);
		return TC_ACT_UNSPEC;
	}
	if (xf_is_marked(skb) ? !anything_queued(cpu) : fit_straight(skb, cpu))
		return TC_ACT_UNSPEC;
	return look_closer(skb, cpu);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
