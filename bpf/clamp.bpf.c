// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * LAN egress: lowers the MSS of a SYN or SYN-ACK that came out of the tunnel,
 * so that the LAN host sends segments that fit. The tunnel is known by its
 * source address: `routes` is the XDP program's map.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "intf.h"
#include "parse.h"

/*
 * Up to the fixed part of the TCP header. Drivers put more than that into the
 * linear part, so that bulk data is never pulled; a SYN with IPv4 options in a
 * frame cut shorter than its headers goes unclamped.
 */
#define HEADERS (ETH_HLEN + XF_VLAN_TAGS * sizeof(struct xf_vlan) + sizeof(struct iphdr) + sizeof(struct tcphdr))

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct xf_prefix4);
	__type(value, struct xf_route);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xf_counters);
} counters SEC(".maps");

static __always_inline void clamp(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 linear = skb->len < HEADERS ? skb->len : HEADERS;
	struct xf_prefix4 key = { .prefixlen = 32 };
	struct xf_packet packet;
	struct xf_syn syn = {};
	struct xf_route *route;
	struct tcphdr *tcp;

	if (data + linear > end) {
		if (bpf_skb_pull_data(skb, linear))
			return;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	if (xf_parse_ipv4(data, end, skb->len, &packet) != XF_FITS)
		return;
	tcp = xf_tcp(&packet, end);
	if (!tcp || !xf_syn_at(&packet, tcp, &syn))
		return;

	__builtin_memcpy(key.addr, &packet.ip->saddr, sizeof(key.addr));
	route = bpf_map_lookup_elem(&routes, &key);
	if (!route || route->flags & XF_ROUTE_LOCAL || !route->mss4)
		return;
	if (bpf_skb_load_bytes(skb, syn.l4 + sizeof(*tcp), syn.options.byte, xf_options_len(&syn.options)))
		return;

	__u32 delta = xf_clamp_mss(&syn.options, route->mss4);
	__u32 zero = 0;
	struct xf_counters *count = bpf_map_lookup_elem(&counters, &zero);

	/* With from and size 0 it adds a difference, and leaves a CHECKSUM_PARTIAL one alone. */
	if (!delta || bpf_l4_csum_replace(skb, syn.l4 + offsetof(struct tcphdr, check), 0, delta, 0))
		return;
	if (!bpf_skb_store_bytes(skb, syn.l4 + sizeof(struct tcphdr), syn.options.byte, xf_options_len(&syn.options), 0) && count)
		count->edit[XF_EDIT_MSS]++;
}

SEC("tc")
int xdpfrag_clamp(struct __sk_buff *skb)
{
	clamp(skb);
	return TC_ACT_UNSPEC; /* to the next program or filter: TCX_NEXT */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
