/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How the tc programs read and write a packet. Included in front of parse.h.
 */
#ifndef XDPFRAG_SKB_H
#define XDPFRAG_SKB_H

#define XF_CTX				   struct __sk_buff
#define xf_load				   bpf_skb_load_bytes
/* Has so many bytes in the linear part; false if it cannot. */
#define xf_pull(skb, len)		   (!bpf_skb_pull_data(skb, len))
/* With from and size 0 it adds a difference, and leaves a CHECKSUM_PARTIAL one alone. */
#define xf_update_check(skb, at, delta) bpf_l4_csum_replace(skb, at, 0, delta, 0)

#include "parse.h"

static __always_inline bool xf_put16(struct __sk_buff *skb, __u32 at, __be16 value)
{
	return !bpf_skb_store_bytes(skb, at, &value, sizeof(value), 0);
}

/*
 * Writes the words of an IPv4 header from the identification to the checksum. No
 * part of its callers, whose stack is full, and without a pointer to what they have
 * there, which the verifier would know less of.
 */
static __noinline void write_words(struct __sk_buff *skb, __u32 at, __u32 id_frag_off, __u32 ttl_protocol,
				   __u32 check)
{
	__u16 words[] = { id_frag_off >> 16, id_frag_off, ttl_protocol, check };

	bpf_skb_store_bytes(skb, at, words, sizeof(words), 0);
}

static __always_inline void xf_write_ip(struct __sk_buff *skb, const struct xf_packet *packet, __be16 id,
					__be16 frag_off, __sum16 check)
{
	const __u16 *ttl_protocol = (void *)&packet->ip->ttl;

	write_words(skb, packet->l3 + offsetof(struct iphdr, id), (__u32)id << 16 | frag_off, *ttl_protocol, check);
}

/*
 * Up to the fixed part of the TCP header over IPv4, or of the IPv6 header: the
 * same. Drivers put more than that into the linear part, so that bulk data is
 * never pulled.
 */
#define HEADERS (ETH_HLEN + XF_VLAN_TAGS * sizeof(struct xf_vlan) + sizeof(struct iphdr) + sizeof(struct tcphdr))
_Static_assert(sizeof(struct ipv6hdr) == sizeof(struct iphdr) + sizeof(struct tcphdr), "one length for both");

/* False if there is no memory to have the headers in the linear part. */
static __always_inline bool pull_headers(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 len = skb->len;

	/* The first is true nearly always. */
	if (data + HEADERS <= end || data + len <= end)
		return true;
	return !bpf_skb_pull_data(skb, len < HEADERS ? len : HEADERS);
}

#endif
