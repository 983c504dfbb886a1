/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bounds-checked parsing and checksum arithmetic shared by the XDP and the tc
 * program. Included after linux/bpf.h, bpf_helpers.h and bpf_endian.h.
 */
#ifndef XDPFRAG_PARSE_H
#define XDPFRAG_PARSE_H

#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#include "intf.h"

#define XF_IP_DF     0x4000
#define XF_IP_MF     0x2000
#define XF_IP_OFFSET 0x1fff

#define XF_VLAN_TAGS 2

#define XF_TCP_OPT_MSS	   2
#define XF_TCP_OPT_MSS_LEN 4

/* The option lists of IPv4 and TCP have one syntax (RFC 791 section 3.1, RFC 9293 section 3.1). */
#define XF_OPT_END 0
#define XF_OPT_NOP 1
#define XF_OPT_MAX 40 /* 60-byte header less its fixed part */

struct xf_vlan {
	__be16 tci;
	__be16 proto;
};

/* An IPv4 packet whose header lies in the linear part and agrees with the frame. */
struct xf_packet {
	struct iphdr *ip;
	__u32 l3;	/* offset of the IPv4 header in the frame */
	__u32 ihl;	/* IPv4 header, bytes */
	__u32 total;	/* IPv4 total length, bytes */
	__u16 frag_off; /* flags and offset, host order */
};

/* An option list, copied out of the packet. */
struct xf_options {
	__u8 byte[XF_OPT_MAX + 4]; /* the length byte of an option at the very end is read */
	__u32 len;		   /* bytes in use: 4..40 */
};

/* What matters of a TCP SYN. */
struct xf_syn {
	struct xf_options options;
	__u32 l4; /* offset of the TCP header in the frame */
	__sum16 check;
};

static __always_inline bool xf_is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD) ||
	       proto == bpf_htons(ETH_P_QINQ1);
}

/*
 * Finds the IPv4 packet in a frame of `frame_len` bytes, of which [data, end)
 * can be read. Returns XF_FITS, or why the packet is not one to handle. A
 * header that is not wholly in the linear part counts as malformed: drivers
 * put at least the first 128 bytes there.
 */
static __always_inline enum xf_reason xf_parse_ipv4(void *data, void *end, __u32 frame_len,
						    struct xf_packet *packet)
{
	struct ethhdr *eth = data;
	__u32 l3 = sizeof(*eth);
	__be16 proto;

	if ((void *)(eth + 1) > end)
		return XF_MALFORMED;
	proto = eth->h_proto;
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
	if (proto != bpf_htons(ETH_P_IP))
		return XF_NOT_IP;
	if (eth->h_dest[0] & 1)
		return XF_GROUP;

	struct iphdr *ip = data + l3;

	if ((void *)(ip + 1) > end)
		return XF_MALFORMED;
	packet->ip = ip;
	packet->l3 = l3;
	packet->ihl = ip->ihl * 4;
	packet->total = bpf_ntohs(ip->tot_len);
	packet->frag_off = bpf_ntohs(ip->frag_off);
	if (ip->version != 4 || packet->ihl < sizeof(*ip) || packet->total < packet->ihl ||
	    packet->total > frame_len - l3)
		return XF_MALFORMED;
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	    ip->daddr == bpf_htonl(0xffffffff))
		return XF_GROUP;
	return XF_FITS;
}

/* The TCP header of a packet: NULL if it has none (non-first fragment, cut short). */
static __always_inline struct tcphdr *xf_tcp(const struct xf_packet *packet, void *end)
{
	__u32 ihl = packet->ihl;
	struct tcphdr *tcp;

	/* Masked anew: where it was compared with 20 before, the verifier of 6.12 lost its bounds. */
	barrier_var(ihl);
	tcp = (void *)packet->ip + (ihl & 0x3c);
	if (packet->ip->protocol != IPPROTO_TCP || packet->frag_off & XF_IP_OFFSET)
		return NULL;
	if (packet->total < packet->ihl + sizeof(*tcp) || (void *)(tcp + 1) > end)
		return NULL;
	return tcp;
}

/* Notes where the options of a SYN or SYN-ACK are; false if it can carry no MSS option. */
static __always_inline bool xf_syn_at(const struct xf_packet *packet, const struct tcphdr *tcp,
				      struct xf_syn *syn)
{
	__u32 len = tcp->doff * 4;

	if (!tcp->syn || len < sizeof(*tcp) + XF_TCP_OPT_MSS_LEN || len > packet->total - packet->ihl)
		return false;
	syn->l4 = packet->l3 + packet->ihl;
	syn->options.len = len - sizeof(*tcp);
	syn->check = tcp->check;
	return true;
}

/* The length of a list as a helper's size argument, with bounds that the verifier sees. */
static __always_inline __u32 xf_options_len(const struct xf_options *options)
{
	__u32 len = options->len;

	barrier_var(len);
	if (len < 4)
		return 4;
	return len > XF_OPT_MAX ? XF_OPT_MAX : len;
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

/*
 * The walks below are global functions, which the verifier goes through once and
 * by themselves (hence the check for NULL), with one iteration per byte at a
 * constant index: inlined, one walk cost it 100,000 instructions.
 */

/*
 * Lowers every MSS option above `limit` and returns the checksum delta in
 * network order, 0 if nothing was lowered. As in tcp_parse_options() the walk
 * ends at a malformed option, and an MSS option of another length than 4 is
 * none. src/packet/mss.rs does the same.
 */
__noinline __u32 xf_clamp_mss(struct xf_options *options, __u16 limit)
{
	__u32 next = 0, delta = 0;

	if (!options)
		return 0;
#pragma unroll
	for (__u32 i = 0; i <= XF_OPT_MAX - XF_TCP_OPT_MSS_LEN; i++) {
		__u8 *option = &options->byte[i];

		if (i != next)
			continue;
		if (i + XF_TCP_OPT_MSS_LEN > options->len || option[0] == XF_OPT_END)
			break;
		if (option[0] == XF_OPT_NOP) {
			next = i + 1;
			continue;
		}
		if (option[1] < 2)
			break;
		if (option[0] == XF_TCP_OPT_MSS && option[1] == XF_TCP_OPT_MSS_LEN) {
			__u16 mss = option[2] << 8 | option[3];

			if (mss > limit) {
				/* At an odd offset its bytes straddle two words: swapped. */
				__u16 old = i & 1 ? mss : bpf_htons(mss);
				__u16 new = i & 1 ? limit : bpf_htons(limit);

				option[2] = limit >> 8;
				option[3] = limit;
				delta += (__u16)~old + new;
			}
		}
		next = i + option[1];
	}
	return delta;
}

/* 1 if the list can be walked to its end: no length below 2 or beyond the list. */
__noinline int xf_options_valid(struct xf_options *options)
{
	__u32 next = 0;

	if (!options)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < XF_OPT_MAX; i++) {
		__u8 *option = &options->byte[i];

		if (i != next)
			continue;
		if (i >= options->len || option[0] == XF_OPT_END)
			return 1;
		if (option[0] == XF_OPT_NOP) {
			next = i + 1;
			continue;
		}
		if (i + 1 >= options->len || option[1] < 2 || i + option[1] > options->len)
			return 0;
		next = i + option[1];
	}
	return 1;
}

#endif
