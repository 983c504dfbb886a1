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

#define XF_CTX struct __sk_buff
#define xf_load bpf_skb_load_bytes

#include "intf.h"
#include "parse.h"
#include "routes.h"

/*
 * Up to the fixed part of the TCP header over IPv4, or of the IPv6 header: the
 * same. Drivers put more than that into the linear part, so that bulk data is
 * never pulled; a SYN with IPv4 options in a frame cut shorter than its headers
 * goes unclamped.
 */
#define HEADERS (ETH_HLEN + XF_VLAN_TAGS * sizeof(struct xf_vlan) + sizeof(struct iphdr) + sizeof(struct tcphdr))
_Static_assert(sizeof(struct ipv6hdr) == sizeof(struct iphdr) + sizeof(struct tcphdr), "one length for both");

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
	if (!route || route->flags)
		return 0;
	return packet->v6 ? route->mss6 : route->mss4;
}

static __always_inline void clamp(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 linear = skb->len < HEADERS ? skb->len : HEADERS;
	struct xf_options options = {};
	struct xf_packet packet;
	struct xf_tcp tcp = {};
	__u32 at, delta, zero = 0;
	__u16 limit;

	if (data + linear > end) {
		if (bpf_skb_pull_data(skb, linear))
			return;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	if (xf_parse(data, end, skb->len, &packet) != XF_FITS)
		return;
	xf_find_tcp(skb, end, &packet, &tcp);
	if (!tcp.options_len)
		return;
	limit = limit_for(&packet);
	at = tcp.l4 + sizeof(struct tcphdr);
	options.len = tcp.options_len;
	if (!limit || bpf_skb_load_bytes(skb, at, options.byte, xf_options_len(&options)))
		return;
	delta = xf_clamp_mss(&options, limit);
	/* With from and size 0 it adds a difference, and leaves a CHECKSUM_PARTIAL one alone. */
	if (!delta || bpf_l4_csum_replace(skb, tcp.l4 + offsetof(struct tcphdr, check), 0, delta, 0))
		return;

	struct xf_counters *count = bpf_map_lookup_elem(&counters, &zero);

	if (!bpf_skb_store_bytes(skb, at, options.byte, xf_options_len(&options), 0) && count)
		count->edit[XF_EDIT_MSS]++;
}

SEC("tc")
int xdpfrag_clamp(struct __sk_buff *skb)
{
	clamp(skb);
	return TC_ACT_UNSPEC; /* to the next program or filter: TCX_NEXT */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
