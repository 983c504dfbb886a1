// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * --redirect late: LAN ingress behind GRO. What the XDP program has passed of
 * oversize packets is made to fit here, without a way through user space:
 *
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

#define XF_CTX struct __sk_buff
#define xf_load bpf_skb_load_bytes

#include "intf.h"
#include "parse.h"
#include "routes.h"
#include "deaf_hosts.h"

const volatile struct late_config {
	__u64 flow_seed;  /* keys the hash of hosts and protocol */
	__u64 token;	  /* in skb->cb of what comes back: random, because GRO leaves its own bytes there */
	__u32 ifindex;	  /* the LAN interface */
	__u32 leave;	  /* XF_LEAVE_*: what this program makes fit */
	__u32 deaf_only;  /* --force deaf */
	__u32 df_keep;	  /* --df keep: no fragments of what has DF */
	__u32 ident_bits; /* --id-partition: identifications are counted above these bits, */
	__u32 ident_part; /* which hold this */
} cfg;

struct late_counters {
	__u64 packets[XF_LATE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct late_counters);
} late_counters SEC(".maps");

#include "hash.h"
#include "under_way.h"
#include "late_queue.h"
#include "late_segment.h"
#include "late_fragment.h"

/* What user space may change while the program runs (.data). */
volatile struct late_live {
	__u32 least_mtu; /* no route has a lower MTU: what is no longer needs no look at the routes */
} live = { .least_mtu = 68 };

/*
 * Grown, a GSO packet has its gso_size lowered by as much (bpf_skb_net_grow());
 * shrunk again with FIXED_GSO it keeps that. Both at the MAC header, so that no
 * byte of the packet has changed in the end. One step changes 4095 at most.
 */
static __always_inline int lower(struct __sk_buff *skb, __u32 share, struct late_counters *count)
{
	if (skb->gso_size <= share)
		return TC_ACT_UNSPEC;
	for (int i = 0; i < 16; i++) {
		__u32 size = skb->gso_size, step = size - share;

		if (size <= share)
			break;
		if (step > 0xfff)
			step = 0xfff;
		if (bpf_skb_adjust_room(skb, step, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET)) {
			/* Some kernels fail when it has grown already. */
			if (i || skb->gso_size != size) {
				count->packets[XF_LATE_LOST]++;
				return TC_ACT_SHOT;
			}
			count->packets[XF_LATE_REFUSED]++;
			return TC_ACT_UNSPEC;
		}
		if (bpf_skb_adjust_room(skb, -(__s32)step, BPF_ADJ_ROOM_MAC,
					BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_FIXED_GSO)) {
			count->packets[XF_LATE_LOST]++;
			return TC_ACT_SHOT;
		}
	}
	count->packets[XF_LATE_LOWERED]++;
	return TC_ACT_UNSPEC;
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

/* Oversize TCP: the conditions are those of left_to_gro() in xdpfrag.bpf.c. */
static __always_inline int oversize_tcp(struct __sk_buff *skb, const struct xf_packet *packet,
					const struct xf_tcp *tcp, __u32 mtu, __u32 slot,
					struct late_counters *count)
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
		return TC_ACT_UNSPEC;
	share = (mtu - headers) & ~1;
	if (skb->gso_size)
		return lower(skb, share, count);

	segment.data = tcp->l4 + header;
	segment.len = packet->total - headers;
	segment.share = share;
	if (bpf_skb_load_bytes(skb, tcp->l4, segment.header, sizeof(struct tcphdr)) ||
	    (header > sizeof(struct tcphdr) &&
	     bpf_skb_load_bytes(skb, tcp->l4 + sizeof(struct tcphdr), segment.header + sizeof(struct tcphdr), 12)) ||
	    segment.len > 2 * share) {
		count->packets[XF_LATE_REFUSED]++;
		return TC_ACT_UNSPEC;
	}
	if (!sound(skb, &segment)) {
		count->packets[XF_LATE_CHECKSUM]++;
		return TC_ACT_UNSPEC;
	}
	return cut(skb, &segment, slot, count);
}

/* An oversize IPv4 packet to fragment: the conditions are those of leavable() in xdpfrag.bpf.c. */
static __always_inline int oversize_datagram(struct __sk_buff *skb, const struct xf_packet *packet, __u32 mtu,
					     __u64 hash, __u32 slot, struct late_counters *count)
{
	bool df = packet->frag_off & XF_IP_DF;
	struct udphdr udp;

	if (!xf_in_two_fragments(packet, mtu) || (df && (cfg.df_keep || !served(packet))))
		return TC_ACT_UNSPEC;
	/* Merged (rx-udp-gro-forwarding): the kernel has no way to lower gso_size of that. */
	if (skb->gso_size ||
	    (!packet->fragment && packet->ip->protocol == IPPROTO_UDP &&
	     (bpf_skb_load_bytes(skb, packet->l3 + sizeof(struct iphdr), &udp, sizeof(udp)) ||
	      xf_unfinished_udp(packet, &udp)))) {
		count->packets[XF_LATE_REFUSED]++;
		return TC_ACT_UNSPEC;
	}
	return fragment(skb, packet, mtu, hash, slot, count);
}

SEC("tc")
int xdpfrag_late(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	bool fits = !skb->gso_size && skb->len <= ETH_HLEN + live.least_mtu, behind = anything_queued();
	struct late_counters *count;
	struct xf_packet packet;
	struct xf_route *route;
	struct xf_tcp tcp = {};
	struct xf_order order;
	__u32 zero = 0, slot;
	__u64 hash;
	int action = TC_ACT_UNSPEC;

	/* Most needs no more than this line. */
	if (fits && !behind)
		return TC_ACT_UNSPEC;
	count = bpf_map_lookup_elem(&late_counters, &zero);
	if (!count || came_back(skb, count))
		return TC_ACT_UNSPEC;
	if (xf_parse(data, end, skb->len, &packet) != XF_FITS)
		return TC_ACT_UNSPEC;
	xf_find_tcp(skb, end, &packet, &tcp);
	route = fits ? NULL : xf_route_of(&packet);
	if (route && (route->flags & (XF_ROUTE_LOCAL | XF_ROUTE_PASS) || packet.total <= route->mtu))
		route = NULL;
	/* What goes after something is in scope as that is. */
	if (!route && !behind)
		return TC_ACT_UNSPEC;
	hash = hash_of_pair(&packet);
	order = order_of(end, &packet, &tcp, hash);
	slot = slot_of(&order);
	if (route) {
		if (tcp.l4 && cfg.leave & XF_LEAVE_TCP)
			action = oversize_tcp(skb, &packet, &tcp, route->mtu, slot, count);
		else if (!packet.v6 && cfg.leave & XF_LEAVE_DATAGRAMS)
			action = oversize_datagram(skb, &packet, route->mtu, hash, slot, count);
	}
	if (action != TC_ACT_UNSPEC || !behind || !goes_after(&order, bpf_ktime_get_ns()))
		return action;
	count->packets[XF_LATE_FOLLOWED]++;
	return queue(skb, slot);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
