// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * --redirect late: LAN ingress behind GRO. What the XDP program has passed is
 * edited here if it fits, and else made to fit, without a way through user space:
 *
 * - What fits: DF and MSS, where the headers are at hand.
 * - TCP (--tcp resegment): GRO has merged the segments of one flow that came in
 *   one batch. gso_size of what is merged is lowered, so that the kernel cuts it
 *   to the SA MTU where it sends it (tcp_gso_segment(); XFRM before it
 *   encrypts). A segment that stayed alone is cut in two.
 * - IPv4 but TCP: cut into two fragments.
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
	__u64 sticky_ns;  /* as of struct xf_config, */
	__s32 sticky_ticks;
	__u32 df;	  /* and this */
	__u32 grace_ticks; /* of the kernel: in so many, whatever XDP has passed is here */
	__u32 ifindex;	  /* the LAN interface */
	__u32 leave;	  /* XF_LEAVE_*: what this program does */
	__u32 deaf_only;  /* --force deaf */
	__u32 ident_bits; /* --id-partition: identifications are counted above these bits, */
	__u32 ident_part; /* which hold this */
} cfg;

/* Those of the XDP program. */
SEC(".data.live") volatile struct xf_live live;
SEC(".bss.shared") volatile struct xf_shared shared;

#include "cpu.h" /* its map is that of the XDP program */
#include "route_cache.h"
#include "scope.h"
#include "lately.h"
#include "edit.h"
#include "hash.h"
#include "under_way.h"

/* Where a packet belongs. */
struct place {
	__u64 hash; /* of its hosts and protocol */
	__u64 flow; /* its bit in xf_cpu.flows; all of them for a fragment */
	struct xf_order order;
	__u32 slot; /* in `under_way` */
};

/* Of what makes a packet fit: it has not, and the packet goes on as it is. */
#define LEFT_ALONE (-2)

#include "late_queue.h"
#include "late_segment.h"
#include "late_fragment.h"
#include "late_fit.h"

/*
 * Grown, a GSO packet has its gso_size lowered by as much (bpf_skb_net_grow());
 * shrunk again with FIXED_GSO it keeps that. Both at the MAC header, so that no
 * byte of the packet has changed in the end. One step changes 4095 at most.
 */
static __always_inline int lower(struct __sk_buff *skb, __u32 share, struct xf_cpu *cpu)
{
	if (skb->gso_size <= share)
		return LEFT_ALONE;
	for (int i = 0; i < 16; i++) {
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
	return LEFT_ALONE;
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
		.addresses = xf_sum_of_addresses(packet, IPPROTO_TCP),
	};
	__u32 header = tcp->header_len, headers = packet->ihl + header, share;

	if (packet->fragment || tcp->l4 != packet->l3 + packet->ihl || mtu <= headers ||
	    tcp->flags & (XF_TCP_SYN | XF_TCP_RST | XF_TCP_URG) || !served(packet) || !xf_bare_tcp(skb, tcp))
		return LEFT_ALONE;
	share = (mtu - headers) & ~1;
	if (skb->gso_size)
		return lower(skb, share, cpu);

	segment.data = tcp->l4 + header;
	segment.len = packet->total - headers;
	segment.share = share;
	if (bpf_skb_load_bytes(skb, tcp->l4, segment.header, sizeof(struct tcphdr)) ||
	    (header > sizeof(struct tcphdr) &&
	     bpf_skb_load_bytes(skb, tcp->l4 + sizeof(struct tcphdr), segment.header + sizeof(struct tcphdr), 12)) ||
	    segment.len > 2 * share) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	if (!sound(skb, &segment)) {
		cpu->late[XF_LATE_CHECKSUM]++;
		return LEFT_ALONE;
	}
	return cut(skb, &segment, place, cpu);
}

/* An oversize IPv4 packet to fragment: the conditions are those of leavable() in detour.h. */
static __always_inline int oversize_datagram(struct __sk_buff *skb, const struct xf_packet *packet, __u32 mtu,
					     const struct place *place, struct xf_cpu *cpu)
{
	bool df = packet->frag_off & XF_IP_DF;
	struct udphdr udp;

	if (!xf_in_two_fragments(packet, mtu) || (df && (cfg.df == XF_DF_KEEP || !served(packet))))
		return LEFT_ALONE;
	/* Merged (rx-udp-gro-forwarding): the kernel has no way to lower gso_size of that. */
	if (skb->gso_size ||
	    (!packet->fragment && packet->ip->protocol == IPPROTO_UDP &&
	     (bpf_skb_load_bytes(skb, packet->l3 + sizeof(struct iphdr), &udp, sizeof(udp)) ||
	      xf_unfinished_udp(packet, &udp)))) {
		cpu->late[XF_LATE_REFUSED]++;
		return LEFT_ALONE;
	}
	return fragment(skb, packet, mtu, place, cpu);
}

/* Makes an oversize packet fit, if it is one for this program; else it goes on as it is. */
static __always_inline int oversize(struct __sk_buff *skb, const struct xf_packet *packet, const struct xf_tcp *tcp,
				    __u32 mtu, const struct place *place, struct xf_cpu *cpu)
{
	if (tcp->l4 && !packet->fragment)
		return cfg.leave & XF_LEAVE_TCP ? oversize_tcp(skb, packet, tcp, mtu, place, cpu) : LEFT_ALONE;
	if (packet->v6 || !(cfg.leave & XF_LEAVE_DATAGRAMS))
		return LEFT_ALONE;
	return oversize_datagram(skb, packet, mtu, place, cpu);
}

/* Of what comes back only a copy that is to be the second fragment is not done yet. */
static __noinline int comes_back(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	__u32 rest = skb->cb[4];

	note_return(skb, cpu);
	return rest ? second_fragment(skb, rest, cpu) : TC_ACT_UNSPEC;
}

/* Whatever fit_straight() is not for. A function by itself, so that that one need not share registers with it. */
static __noinline int look_closer(struct __sk_buff *skb, struct xf_cpu *cpu)
{
	bool fits, edits = left_to_us(), behind = anything_queued(cpu);
	__u32 gso_size = skb->gso_size, ports = 0;
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
	if (reason != XF_FITS) {
		recount(skb, reason, skb->len, cpu);
		return TC_ACT_UNSPEC;
	}
	xf_find_tcp(skb, end, &packet, &tcp);
	reason = in_scope(cpu, &packet, &route);
	if (reason != XF_FITS) {
		recount(skb, reason, packet.l3 + longest(gso_size, &packet, &tcp), cpu);
		return TC_ACT_UNSPEC;
	}
	fits = longest(gso_size, &packet, &tcp) <= route.mtu;
	if (behind || !fits) {
		ports = ports_of(end, &packet, &tcp);
		place.flow = flow_bit(&packet, ports);
		behind = behind && cpu->flows & place.flow;
	}
	if (fits && !behind) {
		if (edits)
			fit(skb, gso_size, &packet, &tcp, &route, cpu);
		return TC_ACT_UNSPEC;
	}
	place.hash = hash_of_pair(&packet);
	place.order = order_of(&packet, place.hash, ports);
	place.slot = slot_of(&place.order);
	if (!fits) {
		action = oversize(skb, &packet, &tcp, route.mtu, &place, cpu);
		if (action != LEFT_ALONE)
			return action;
	} else if (edits) {
		fit(skb, gso_size, &packet, &tcp, &route, cpu);
	}
	if (!behind || !goes_after(&place.order))
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
	if (has_token(skb))
		return comes_back(skb, cpu);
	if (!skb->gso_size && skb->len <= live.fitting &&
	    (left_to_us() ? fit_straight(skb, cpu) : !anything_queued(cpu)))
		return TC_ACT_UNSPEC;
	return look_closer(skb, cpu);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
