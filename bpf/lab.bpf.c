// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The lab's eyes and bad manners: tc ingress on an interface of an end host.
 * Counts what arrives, loses fragments on purpose, and makes Linux's TCP as
 * deaf as the appliances xdpfrag is for: the peer's MSS reads 1460 again and
 * ICMP "fragmentation needed" is never heard. lab_tag and lab_untag are a
 * VLAN interface for kernels without 8021q: above them nobody sees the tag, on
 * the wire it is there.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define ICMP_DEST_UNREACH 3 /* linux/icmp.h pulls in libc headers */
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_PKT_TOOBIG 2
#define LENGTHS 9217 /* IP total length 0..9216 */
#define DEAF_MSS 1460
#define DEAF_MSS6 1440

struct lab_rules {
	__u32 lose_fragment; /* every n-th fragment is lost; 0: none */
	__u32 deaf;
	__u32 sink; /* nothing goes further than this program */
	__u32 vlan; /* of lab_tag */
};

struct lab_seen {
	__u64 packets;
	__u64 fragments;
	__u64 df;
	__u64 lost;	 /* fragments, on purpose */
	__u64 too_big;	 /* ICMP 3/4 and ICMPv6 2 */
	__u64 syn;
	__u64 syn_mss;	 /* largest MSS in a SYN or SYN-ACK, as it arrived */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lab_rules);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lab_seen);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LENGTHS);
	__type(key, __u32);
	__type(value, __u64);
} lengths SEC(".maps");

struct mss_option {
	__u8 kind;
	__u8 length;
	__be16 value;
};

/* Linux puts the MSS first among the options, hence at an even offset. */
static __always_inline void deafen_syn(struct __sk_buff *skb, const struct lab_rules *rule, struct lab_seen *sum,
				       __u32 offset, __be16 deaf)
{
	struct tcphdr tcp;
	struct mss_option mss;
	__u32 option = offset + sizeof(tcp);

	if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)) || !tcp.syn)
		return;
	__sync_fetch_and_add(&sum->syn, 1);
	if (tcp.doff < 6 || bpf_skb_load_bytes(skb, option, &mss, sizeof(mss)) || mss.kind != 2 || mss.length != 4)
		return;
	if (bpf_ntohs(mss.value) > sum->syn_mss)
		sum->syn_mss = bpf_ntohs(mss.value);
	if (!rule->deaf)
		return;
	bpf_l4_csum_replace(skb, offset + offsetof(struct tcphdr, check), mss.value, deaf, sizeof(deaf));
	bpf_skb_store_bytes(skb, option + offsetof(struct mss_option, value), &deaf, sizeof(deaf), 0);
}

static __always_inline void count(struct lab_seen *sum, __u32 length)
{
	__u64 *histogram;

	if (length >= LENGTHS)
		length = LENGTHS - 1;
	histogram = bpf_map_lookup_elem(&lengths, &length);
	if (histogram)
		__sync_fetch_and_add(histogram, 1);
	__sync_fetch_and_add(&sum->packets, 1);
}

/* The lab's IPv6 has no extension headers: a fragment would be one, and is counted as such. */
static __always_inline int ingress6(struct __sk_buff *skb, const struct lab_rules *rule, struct lab_seen *sum)
{
	__u32 l4 = ETH_HLEN + sizeof(struct ipv6hdr);
	struct ipv6hdr ip;
	__u8 type;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_OK;
	count(sum, sizeof(ip) + bpf_ntohs(ip.payload_len));
	if (ip.nexthdr == IPPROTO_FRAGMENT)
		__sync_fetch_and_add(&sum->fragments, 1);
	if (ip.nexthdr == IPPROTO_TCP)
		deafen_syn(skb, rule, sum, l4, bpf_htons(DEAF_MSS6));
	if (ip.nexthdr == IPPROTO_ICMPV6 && !bpf_skb_load_bytes(skb, l4, &type, sizeof(type)) &&
	    type == ICMPV6_PKT_TOOBIG) {
		__sync_fetch_and_add(&sum->too_big, 1);
		if (rule->deaf)
			return TC_ACT_SHOT;
	}
	return TC_ACT_OK;
}

SEC("tc")
int lab_ingress(struct __sk_buff *skb)
{
	__u32 zero = 0, l4;
	struct iphdr ip;
	__u8 icmp[2];
	__u16 frag;
	struct lab_rules *rule = bpf_map_lookup_elem(&rules, &zero);
	struct lab_seen *sum = bpf_map_lookup_elem(&seen, &zero);

	if (!rule || !sum)
		return TC_ACT_OK;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return ingress6(skb, rule, sum);
	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_OK;
	frag = bpf_ntohs(ip.frag_off);
	count(sum, bpf_ntohs(ip.tot_len));
	if (frag & IP_DF)
		__sync_fetch_and_add(&sum->df, 1);

	if (frag & (IP_MF | IP_OFFSET)) {
		__u64 nth = __sync_fetch_and_add(&sum->fragments, 1) + 1;

		if (rule->lose_fragment && nth % rule->lose_fragment == 0) {
			__sync_fetch_and_add(&sum->lost, 1);
			return TC_ACT_SHOT;
		}
		return rule->sink ? TC_ACT_SHOT : TC_ACT_OK;
	}
	if (rule->sink)
		return TC_ACT_SHOT;

	l4 = ETH_HLEN + ip.ihl * 4;
	if (ip.protocol == IPPROTO_TCP)
		deafen_syn(skb, rule, sum, l4, bpf_htons(DEAF_MSS));
	if (ip.protocol == IPPROTO_ICMP && !bpf_skb_load_bytes(skb, l4, icmp, sizeof(icmp)) &&
	    icmp[0] == ICMP_DEST_UNREACH && icmp[1] == ICMP_FRAG_NEEDED) {
		__sync_fetch_and_add(&sum->too_big, 1);
		if (rule->deaf)
			return TC_ACT_SHOT;
	}
	return TC_ACT_OK;
}

/* tc egress. The tag goes into the frame where the device has no txvlan offload. */
SEC("tc")
int lab_tag(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct lab_rules *rule = bpf_map_lookup_elem(&rules, &zero);

	if (!rule || bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), rule->vlan))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* tc ingress, before lab_ingress. What comes without a tag is not for this host. */
SEC("tc")
int lab_untag(struct __sk_buff *skb)
{
	if (!skb->vlan_present || bpf_skb_vlan_pop(skb))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

/* Somebody else's program, where the XDP slot must be busy. */
SEC("xdp.frags")
int lab_squatter(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
