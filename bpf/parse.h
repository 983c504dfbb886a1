/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bounds-checked parsing and checksum arithmetic shared by the XDP and the tc
 * program. Included after linux/bpf.h, bpf_helpers.h and bpf_endian.h, and
 * after these two are defined:
 *
 *   XF_CTX   the type of the program's context
 *   xf_load  the helper that copies bytes out of its frame
 */
#ifndef XDPFRAG_PARSE_H
#define XDPFRAG_PARSE_H

#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "intf.h"
#include "options.h"

#define XF_IP_DF     0x4000
#define XF_IP_MF     0x2000
#define XF_IP_OFFSET 0x1fff

/* Flags in byte 13 of a TCP header. */
#define XF_TCP_FIN 0x01
#define XF_TCP_SYN 0x02
#define XF_TCP_RST 0x04
#define XF_TCP_PSH 0x08
#define XF_TCP_URG 0x20
#define XF_TCP_CWR 0x80
/* In byte 12, beside the data offset: Accurate ECN (RFC 9768). */
#define XF_TCP_AE 0x01

#define XF_VLAN_TAGS 2

/*
 * More extension headers than any sender has reason to use (each kind once,
 * destination options twice: RFC 8200 section 4.1).
 */
#define XF_EXTENSIONS 6
/* Offset in an IPv6 fragment header's second word, above two reserved bits and M. */
#define XF_IP6_OFFSET 0xfff8

/* As struct ethhdr, which is packed: compilers read it byte by byte. */
struct xf_ethernet {
	__u8 dest[ETH_ALEN];
	__u8 source[ETH_ALEN];
	__be16 proto;
};

struct xf_vlan {
	__be16 tci;
	__be16 proto;
};

/* An IP packet whose fixed header lies in the linear part and agrees with the frame. */
struct xf_packet {
	union {
		struct iphdr *ip;
		struct ipv6hdr *ip6;
	};
	bool v6;
	bool fragment;	/* part of a datagram; for IPv6 known after xf_find_tcp() */
	__u32 l3;	/* offset of the IP header in the frame */
	__u32 ihl;	/* IPv4 header, or IPv6 header without extensions, bytes */
	__u32 total;	/* whole packet, bytes */
	__u16 frag_off; /* IPv4 flags and offset, host order */
};

/* What matters of a TCP header. */
struct xf_tcp {
	__u32 l4;	   /* offset in the frame; 0: the packet has none */
	__u32 len;	   /* of header and data, bytes */
	__u32 options_len; /* of a SYN or SYN-ACK that has room for an MSS option; else 0 */
	__be16 source;
	__be16 dest;
	__sum16 check;
	__u8 header_len; /* bytes */
	__u8 flags;	 /* XF_TCP_* */
};

/* An IPv6 extension header, as far as its length goes. */
struct xf_extension {
	__u8 next;
	__u8 len;
	__be16 offset; /* fragment header */
};

/* The way through the extension headers. */
struct xf_chain {
	__u32 at;   /* offset of the next header in the frame */
	__u32 left; /* bytes of the packet from there on */
	__u8 next;  /* its kind */
	__u8 fragment;
};

static __always_inline bool xf_is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD) ||
	       proto == bpf_htons(ETH_P_QINQ1);
}

/* False for a header cut short, or inconsistent. */
static __always_inline bool xf_parse_ipv4(void *end, struct xf_packet *packet)
{
	struct iphdr *ip = packet->ip;

	if ((void *)(ip + 1) > end)
		return false;
	packet->ihl = ip->ihl * 4;
	packet->total = bpf_ntohs(ip->tot_len);
	packet->frag_off = bpf_ntohs(ip->frag_off);
	packet->fragment = packet->frag_off & (XF_IP_MF | XF_IP_OFFSET);
	return ip->version == 4 && packet->ihl >= sizeof(*ip) && packet->total >= packet->ihl;
}

/* A payload length of 0 is that of a jumbogram (RFC 2675): inconsistent to us. */
static __always_inline bool xf_parse_ipv6(void *end, struct xf_packet *packet)
{
	struct ipv6hdr *ip = packet->ip6;

	if ((void *)(ip + 1) > end)
		return false;
	packet->ihl = sizeof(*ip);
	packet->total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	return ip->version == 6 && ip->payload_len;
}

/* Behind these two: false if the packet claims to be longer than a frame of so many bytes holds. */
static __always_inline bool xf_is_within(const struct xf_packet *packet, __u32 frame_len)
{
	return packet->total <= frame_len - packet->l3;
}

/* True for a multicast or broadcast address. */
static __always_inline bool xf_to_group(const struct xf_packet *packet)
{
	if (packet->v6)
		return packet->ip6->daddr.s6_addr[0] == 0xff;
	return (packet->ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	       packet->ip->daddr == bpf_htonl(0xffffffff);
}

/*
 * `value`, of which the verifier then knows no more than that it is within
 * `mask`, like `any`, of which it knows nothing. Masked anew, because 6.1 knows
 * nothing of what was XORed.
 */
static __always_inline __u32 xf_forget(__u32 value, __u32 any, __u32 mask)
{
	any &= mask;
	value ^= any;
	barrier_var(value);
	return (value ^ any) & mask;
}

/* Finds where the IP packet in a frame begins. Returns XF_FITS, or why there is none to handle. */
static __always_inline enum xf_reason xf_parse_link(void *data, void *end, struct xf_packet *packet)
{
	struct xf_ethernet *eth = data;
	__u64 linear = end - data;
	__u32 l3 = sizeof(*eth);
	__be16 proto;

	if ((void *)(eth + 1) > end)
		return XF_MALFORMED;
	proto = eth->proto;
#pragma unroll
	for (int i = 0; i < XF_VLAN_TAGS; i++) {
		struct xf_vlan *tag = data + l3;

		if (!xf_is_vlan(proto))
			break;
		if ((void *)(tag + 1) > end)
			return XF_MALFORMED;
		proto = tag->proto;
		l3 += sizeof(*tag);
	}
	if (proto != bpf_htons(ETH_P_IP) && proto != bpf_htons(ETH_P_IPV6))
		return XF_NOT_IP;
	if (eth->dest[0] & 1)
		return XF_GROUP;
	/*
	 * Else the verifier would go through all that follows once for each number of tags. With nothing of the
	 * frame: the load of its IP header would then wait for that of its first line, both from memory.
	 */
	barrier_var(linear);
	l3 = xf_forget(l3, linear, 31);
	*packet = (struct xf_packet){ .ip = data + l3, .l3 = l3, .v6 = proto == bpf_htons(ETH_P_IPV6) };
	return XF_FITS;
}

/*
 * Finds the IP packet in a frame of `frame_len` bytes, of which [data, end) can
 * be read. Returns XF_FITS, or why the packet is not one to handle. A fixed
 * header that is not wholly in the linear part counts as malformed: drivers
 * put at least the first 128 bytes there.
 */
static __always_inline enum xf_reason xf_parse(void *data, void *end, __u32 frame_len, struct xf_packet *packet)
{
	enum xf_reason reason = xf_parse_link(data, end, packet);

	if (reason != XF_FITS)
		return reason;
	if (!(packet->v6 ? xf_parse_ipv6(end, packet) : xf_parse_ipv4(end, packet)) ||
	    !xf_is_within(packet, frame_len))
		return XF_MALFORMED;
	return xf_to_group(packet) ? XF_GROUP : XF_FITS;
}

static __always_inline bool xf_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS;
}

/*
 * Follows the extension headers, the fragment header of a first fragment
 * included; 1 if something else is reached, 0 for a chain that is cut short,
 * too long, or of a later fragment. What is no option or routing header ends
 * it: nothing may be edited behind an authentication header, which covers it.
 * src/packet/ipv6.rs does the same. Global: the verifier goes through it once.
 */
__noinline int xf_skip_extensions(XF_CTX *ctx, struct xf_chain *chain)
{
	struct xf_extension header;
	__u32 len;

	if (!chain)
		return 0;
	for (int i = 0; i < XF_EXTENSIONS; i++) {
		if (chain->left < sizeof(header) || xf_load(ctx, chain->at, &header, sizeof(header)))
			return 0;
		len = header.len * 8 + 8;
		if (chain->next == IPPROTO_FRAGMENT) {
			if (header.offset & bpf_htons(XF_IP6_OFFSET))
				return 0;
			chain->fragment = 1;
			len = 8;
		}
		if (len > chain->left)
			return 0;
		chain->at += len;
		chain->left -= len;
		chain->next = header.next;
		if (!xf_is_extension(chain->next))
			return 1;
	}
	return 0;
}

/* Keeps of a TCP header of `len` bytes, data included, what matters. */
static __always_inline void xf_note_tcp(const struct tcphdr *header, __u32 l4, __u32 len, struct xf_tcp *tcp)
{
	__u32 header_len = header->doff * 4;

	tcp->l4 = l4;
	tcp->len = len;
	tcp->source = header->source;
	tcp->dest = header->dest;
	tcp->check = header->check;
	tcp->header_len = header_len;
	tcp->flags = ((const __u8 *)header)[13];
	if (header->syn && header_len >= sizeof(*header) + XF_TCP_OPT_MSS_LEN && header_len <= len)
		tcp->options_len = header_len - sizeof(*header);
}

/* Finds the TCP header of a packet, which a fragment but the first has not. `tcp` is all zero before. */
static __always_inline void xf_find_tcp(XF_CTX *ctx, void *end, struct xf_packet *packet, struct xf_tcp *tcp)
{
	__u32 l4 = packet->l3 + packet->ihl, len = packet->total - packet->ihl;

	if (!packet->v6) {
		__u32 ihl = packet->ihl;
		struct tcphdr *header;

		/* Masked anew: where it was compared with 20 before, the verifier of 6.12 lost its bounds. */
		if (!__builtin_constant_p(ihl))
			barrier_var(ihl);
		header = (void *)packet->ip + (ihl & 0x3c);
		if (packet->ip->protocol == IPPROTO_TCP && !(packet->frag_off & XF_IP_OFFSET) &&
		    len >= sizeof(*header) && (void *)(header + 1) <= end)
			xf_note_tcp(header, l4, len, tcp);
		return;
	}

	struct xf_chain chain = { .at = l4, .left = len, .next = packet->ip6->nexthdr };
	struct tcphdr header, *next = (void *)(packet->ip6 + 1);

	if (xf_is_extension(chain.next)) {
		if (!xf_skip_extensions(ctx, &chain))
			return;
		packet->fragment = chain.fragment;
	} else if ((void *)(next + 1) <= end) {
		/* Nearly always, and without a helper. */
		if (chain.next == IPPROTO_TCP && len >= sizeof(*next))
			xf_note_tcp(next, l4, len, tcp);
		return;
	}
	if (chain.next == IPPROTO_TCP && chain.left >= sizeof(header) &&
	    !xf_load(ctx, chain.at, &header, sizeof(header)))
		xf_note_tcp(&header, chain.at, chain.left, tcp);
}

/*
 * True if a TCP header has no options, or the one of RFC 7323 as all write it
 * (NOP, NOP, time stamp): nothing then signs the segment.
 */
static __always_inline bool xf_bare_tcp(XF_CTX *ctx, const struct xf_tcp *tcp)
{
	__be32 options;

	if (tcp->header_len == sizeof(struct tcphdr))
		return true;
	return tcp->header_len == sizeof(struct tcphdr) + 12 &&
	       !xf_load(ctx, tcp->l4 + sizeof(struct tcphdr), &options, sizeof(options)) &&
	       options == bpf_htonl(0x0101080a);
}

/*
 * True if a cut may give an IPv4 packet another identification, see id_may_change() in src/packet/ipv4.rs: not to a
 * fragment, which has that of the others, nor in front of an authentication header, which covers it.
 */
static __always_inline bool xf_id_may_change(const struct xf_packet *packet)
{
	return packet->frag_off & XF_IP_DF && !packet->fragment && packet->ip->protocol != IPPROTO_AH;
}

static __always_inline __u16 xf_csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/*
 * RFC 1624 equation 3, with `delta` the sum of ~m + m' over the words that
 * changed. A checksum that was wrong stays wrong by the same amount.
 */
static __always_inline __sum16 xf_csum_update(__sum16 check, __u32 delta)
{
	return ~xf_csum_fold((__u16)~check + delta);
}

/* Of a header that has DF. As ip_decrease_ttl(): what xf_csum_update() would say, said sooner. */
static __always_inline void xf_clear_df(struct iphdr *ip)
{
	__u32 check = ip->check + bpf_htons(XF_IP_DF);

	ip->frag_off &= ~bpf_htons(XF_IP_DF);
	ip->check = check + ((check + 1) >> 16);
}

/* Sum over both addresses and the protocol: of the pseudo-header, all but the length. */
static __always_inline __u32 xf_sum_of_addresses(const struct xf_packet *packet, __u8 protocol)
{
	/* Both addresses, which stand in a row. */
	const __u16 *word = packet->v6 ? packet->ip6->saddr.s6_addr16 : (void *)&packet->ip->saddr;
	__u32 sum = bpf_htons(protocol);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += word[i];
	if (packet->v6) {
#pragma unroll
		for (int i = 4; i < 16; i++)
			sum += word[i];
	}
	return sum;
}

/*
 * True if a checksum field holds the bare pseudo-header sum: the sender is a
 * local virtual link that left the rest to hardware (CHECKSUM_PARTIAL).
 */
static __always_inline bool xf_unfinished(const struct xf_packet *packet, __u8 protocol, __u32 len, __sum16 check)
{
	return check == xf_csum_fold(xf_sum_of_addresses(packet, protocol) + bpf_htons(len));
}

#endif
