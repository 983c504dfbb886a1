// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * LAN egress: lowers the MSS of a SYN or SYN-ACK that came out of the tunnel,
 * so that the LAN host sends segments that fit. The tunnel is known by the
 * addresses, source and destination swapped: the maps are the XDP program's.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "skb.h"
#include "routes.h"
#include "edit.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_counters);
} counters SEC(".maps");

/* The largest MSS for a reply from behind the tunnel to a LAN host; 0 if it is out of scope. */
static __always_inline __u16 limit_for(const struct xf_packet *packet)
{
	struct xf_route *route;

	if (packet->v6)
		route = xf_route6(&packet->ip6->daddr, &packet->ip6->saddr);
	else
		route = xf_route4(&packet->ip->daddr, &packet->ip->saddr);
	if (!route || route->flags & (XF_ROUTE_LOCAL | XF_ROUTE_PASS))
		return 0;
	return packet->v6 ? route->mss6 : route->mss4;
}

static __always_inline void clamp(struct __sk_buff *skb)
{
	struct xf_counters *count;
	struct xf_packet packet;
	struct xf_tcp tcp = {};
	void *data, *end;
	__u32 zero = 0;
	__u16 limit;

	/* A SYN with IPv4 options in a frame cut shorter than its headers goes unclamped. */
	if (!pull_headers(skb))
		return;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (xf_parse(data, end, skb->len, &packet) != XF_FITS)
		return;
	xf_find_tcp(skb, end, &packet, &tcp);
	if (!tcp.options_len)
		return;
	limit = limit_for(&packet);
	if (!limit || !lower_mss(skb, &tcp, limit, false))
		return;
	count = bpf_map_lookup_elem(&counters, &zero);
	if (count)
		count->edit[XF_EDIT_MSS]++;
}

SEC("tc")
int xdpfrag_clamp(struct __sk_buff *skb)
{
	clamp(skb);
	return TC_ACT_UNSPEC; /* to the next program or filter: TCX_NEXT */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
